//! Arrays in chunks whose parts are not as they should be.

use rmp::encode as put;

use super::encode::{Form, extension, map_len, number, open, refused, string, triple};
use super::malformed::{assert_says, refused_value, two_floats, with_value};

const MARK: &str = "__msgpack_chunked_array__";

/// One part of a chunked array's map.
type Part<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));

fn with_parts(parts: &[Part]) -> Vec<u8> {
    with_value(|out| {
        map_len(out, parts.len());
        for (key, write) in parts {
            string(out, key);
            write(out);
        }
    })
}

fn mark(out: &mut Vec<u8>) {
    put::write_bool(out, true).unwrap();
}

fn shape_four(out: &mut Vec<u8>) {
    map_len(out, 1);
    string(out, "0");
    number(out, 4);
}

/// Writes chunks with these numbers, shapes and dtypes.
fn chunks<'a>(list: &'a [(&str, &[usize], &str)]) -> impl Fn(&mut Vec<u8>) + 'a {
    move |out| {
        map_len(out, list.len());
        for (number, shape, dtype) in list {
            string(out, number);
            let size = if *dtype == "float32" { 4 } else { 2 };
            let bytes = vec![0; shape.iter().product::<usize>() * size];
            extension(out, 1, &triple(shape, dtype, &bytes, Form::Array));
        }
    }
}

#[test]
fn chunks_in_any_order_of_their_numbers_are_put_in_order() {
    let list: &[(&str, &[usize], &str)] = &[("1", &[1], "float32"), ("0", &[3], "float32")];
    let file = with_parts(&[
        (MARK, &mark),
        ("chunks", &chunks(list)),
        ("shape", &shape_four),
    ]);
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.get("model/x").unwrap().shape(), [4]);
}

#[test]
fn chunks_that_do_not_fit_together() {
    type List<'a> = &'a [(&'a str, &'a [usize], &'a str)];
    let cases: [(List, &str); 8] = [
        (
            &[("0", &[3], "float32")],
            "shape [4] of float32 needs 16 bytes, found 12",
        ),
        (
            &[("0", &[3], "float32"), ("1", &[2], "float32")],
            "needs 16 bytes, found 20",
        ),
        (
            &[("0", &[2], "float32"), ("1", &[2], "float16")],
            "chunk 1 is float16, chunk 0 is float32",
        ),
        (
            &[("0", &[2], "float32"), ("2", &[2], "float32")],
            "chunks of a chunked array must be numbered",
        ),
        (
            &[("0", &[2], "float32"), ("0", &[2], "float32")],
            "chunks of a chunked array must be numbered",
        ),
        (
            &[("00", &[4], "float32")],
            "chunks of a chunked array must be numbered",
        ),
        (
            &[("0", &[2, 2], "float32")],
            "chunk 0 has shape [2, 2], expected one dimension",
        ),
        (&[], "chunks of a chunked array must be numbered"),
    ];
    for (list, words) in cases {
        let file = with_parts(&[
            (MARK, &mark),
            ("shape", &shape_four),
            ("chunks", &chunks(list)),
        ]);
        assert_says(&refused_value(&file), words);
    }
}

#[test]
fn a_chunked_array_with_other_parts() {
    let whole = chunks(&[("0", &[4], "float32")]);
    let cases: [(&[Part], &str); 7] = [
        (
            &[(MARK, &mark), ("shape", &shape_four)],
            "must have exactly",
        ),
        (&[(MARK, &mark), ("chunks", &whole)], "must have exactly"),
        (
            &[
                (MARK, &mark),
                ("shape", &shape_four),
                ("shape", &shape_four),
            ],
            "must have exactly",
        ),
        (
            &[
                (MARK, &mark),
                ("shape", &shape_four),
                ("chunks", &whole),
                ("more", &mark),
            ],
            "must have exactly",
        ),
        (
            &[(MARK, &|out| put::write_bool(out, false).unwrap())],
            "must begin with its mark",
        ),
        (
            &[(MARK, &mark), ("shape", &mark)],
            "expected the shape, a map, found a boolean",
        ),
        (
            &[
                (MARK, &mark),
                ("chunks", &|out| {
                    map_len(out, 1);
                    string(out, "0");
                    mark(out);
                }),
            ],
            "expected a chunk, found a boolean",
        ),
    ];
    for (parts, words) in cases {
        assert_says(&refused_value(&with_parts(parts)), words);
    }
}

#[test]
fn a_chunk_mark_that_is_not_the_first_key() {
    let tensor = |out: &mut Vec<u8>| extension(out, 1, &two_floats());
    let message = refused(&with_parts(&[("a", &tensor), (MARK, &mark)]));
    assert_says(&message, "must begin with its mark");
    let mut outermost = Vec::new();
    map_len(&mut outermost, 1);
    string(&mut outermost, MARK);
    mark(&mut outermost);
    assert_says(&refused(&outermost), "must begin with its mark");
}
