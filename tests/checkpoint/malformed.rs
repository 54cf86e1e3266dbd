//! One case for each way in which a msgpack file can be wrong.

use gemma_xla::checkpoint::Error;
use gemma_xla::dtype::DType;

use super::encode::{
    FILE, Form, encode, everything, extension, leaf, map, map_len, open, refused, string, triple,
};

/// A file with one tensor, `model/x`, whose value `write` writes.
pub fn with_value(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    map_len(&mut out, 1);
    string(&mut out, "model");
    map_len(&mut out, 1);
    string(&mut out, "x");
    write(&mut out);
    out
}

pub fn with_extension(code: i8, content: &[u8]) -> Vec<u8> {
    with_value(|out| extension(out, code, content))
}

/// The message of a file whose value `model/x` must be refused: it names the tensor.
#[track_caller]
pub fn refused_value(bytes: &[u8]) -> String {
    let message = refused(bytes);
    assert!(
        message.contains("\"model/x\""),
        "names no tensor: {message}"
    );
    message
}

#[track_caller]
pub fn assert_says(message: &str, words: &str) {
    assert!(message.contains(words), "{words:?} is not in: {message}");
}

pub fn two_floats() -> Vec<u8> {
    triple(&[2], "float32", &[0; 8], Form::Array)
}

#[test]
fn a_file_cut_short_at_any_byte() {
    let whole = encode(&everything());
    open(&whole).unwrap();
    for len in 0..whole.len() {
        let message = refused(&whole[..len]);
        assert_says(&message, "cut short");
    }
}

#[test]
fn an_extension_of_an_unknown_type() {
    for code in [0, 4, 127, -1] {
        let message = refused_value(&with_extension(code, &two_floats()));
        assert_says(&message, &format!("extension type {code} is unknown"));
    }
}

#[test]
fn a_complex_number() {
    let message = refused_value(&with_extension(2, &[0x92, 0, 0]));
    assert_says(&message, "complex");
}

#[test]
fn an_unknown_dtype() {
    for dtype in [
        "int7",
        "float80",
        "complex64",
        "",
        "float32 ",
        &"x".repeat(300),
    ] {
        let message = refused_value(&with_extension(
            1,
            &triple(&[2], dtype, &[0; 8], Form::Array),
        ));
        assert_says(
            &message,
            &format!("unknown dtype \"{}\"", dtype.get(..64).unwrap_or(dtype)),
        );
        assert_says(&message, "float32, float16, bfloat16");
    }
}

#[test]
fn quantised_weights_are_named_as_such() {
    for dtype in ["int8", "uint8", "int4", "float8_e4m3fn", "float8_e5m2"] {
        let message = refused_value(&with_extension(
            1,
            &triple(&[2, 4], dtype, &[0; 8], Form::Array),
        ));
        assert_says(&message, dtype);
        assert_says(&message, "quantised");
    }
}

#[test]
fn bytes_that_are_too_few_or_too_many_for_the_shape() {
    for found in [0, 7, 9, 12] {
        let bytes = vec![0; found];
        let message = refused_value(&with_extension(
            1,
            &triple(&[2], "float32", &bytes, Form::Array),
        ));
        assert_says(
            &message,
            &format!("shape [2] of float32 needs 8 bytes, found {found}"),
        );
    }
}

#[test]
fn a_shape_whose_bytes_overflow() {
    let message = refused_value(&with_extension(
        1,
        &triple(&[1 << 40, 1 << 40], "float32", &[], Form::Array),
    ));
    assert_says(&message, "is too large");
}

#[test]
fn too_many_dimensions() {
    let message = refused_value(&with_extension(
        1,
        &triple(&[1; 65], "float32", &[0; 4], Form::Array),
    ));
    assert_says(&message, "65 dimensions");
}

#[test]
fn a_negative_dimension() {
    let message = refused_value(&with_extension(1, &[0x93, 0x91, 0xff]));
    assert_says(
        &message,
        "expected a dimension, a whole number, found a negative number",
    );
}

#[test]
fn an_extension_that_holds_something_else() {
    for (content, words) in [
        (&[0xc0][..], "found nil"),
        (&[0x92, 0x90, 0xa0], "found an array of another length"),
        (
            &[0x93, 0xa0],
            "expected the shape, an array, found a string",
        ),
        (
            &[0x93, 0x90, 0x00],
            "expected the dtype's name, found a whole number",
        ),
        (
            &[
                0x93, 0x90, 0xa7, b'f', b'l', b'o', b'a', b't', b'3', b'2', 0xc2,
            ],
            "expected the array's bytes, found a boolean",
        ),
        (&[], "cut short: 1 bytes needed, 0 left"),
    ] {
        assert_says(&refused_value(&with_extension(1, content)), words);
    }
}

#[test]
fn an_extension_that_is_longer_than_its_array() {
    let mut content = two_floats();
    content.push(0);
    assert_says(
        &refused_value(&with_extension(1, &content)),
        "1 bytes too many after an array's bytes",
    );
}

#[test]
fn an_array_that_is_longer_than_its_extension() {
    let content = two_floats();
    let mut file = with_extension(1, &content[..content.len() - 1]);
    file.extend([0; 100]);
    assert_says(&refused_value(&file), "cut short: 8 bytes needed, 7 left");
}

#[test]
fn a_scalar_with_a_shape() {
    assert_says(
        &refused_value(&with_extension(3, &two_floats())),
        "has shape [2]",
    );
}

#[test]
fn a_value_that_is_no_array() {
    for (byte, kind) in [
        (0xc0, "nil"),
        (0x07, "a whole number"),
        (0xc3, "a boolean"),
        (0x90, "an array"),
        (0xca, "a floating-point number"),
        (0xa0, "a string"),
        (0xc1, "a byte that msgpack does not use"),
    ] {
        let message = refused_value(&with_value(|out| out.extend([byte, 0, 0, 0, 0])));
        assert_says(
            &message,
            &format!("expected an array or a map of arrays, found {kind}"),
        );
    }
}

#[test]
fn a_file_that_is_no_map() {
    assert_says(&refused(&[]), "cut short");
    assert_says(
        &refused(&[0x90]),
        "expected a map of tensors, found an array",
    );
    assert_says(&refused(b"PK\x03\x04"), "expected a map of tensors");
}

#[test]
fn a_git_lfs_pointer() {
    let message = refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n");
    assert_says(&message, "git lfs pull");
}

#[test]
fn bytes_after_the_map() {
    let mut file = encode(&everything());
    file.extend([0; 3]);
    assert_says(&refused(&file), "3 bytes too many after the map of tensors");
}

#[test]
fn a_name_that_is_no_string() {
    assert_says(
        &refused(&[0x81, 0x01, 0xc0]),
        "expected a name, found a whole number",
    );
}

#[test]
fn a_name_that_is_not_utf8() {
    assert_says(&refused(&[0x81, 0xa1, 0xff, 0xc0]), "not valid UTF-8");
}

#[test]
fn a_name_too_long() {
    let tensor = leaf(DType::F32, &[1], Form::Array, 0);
    open(&encode(&map([(&"x".repeat(512), tensor.clone())]))).unwrap();
    assert_says(
        &refused(&encode(&map([(&"x".repeat(513), tensor.clone())]))),
        "longer than 512 bytes",
    );
    let nested = map([(&"x".repeat(400), map([(&"y".repeat(400), tensor)]))]);
    assert_says(&refused(&encode(&nested)), "longer than 512 bytes");
}

#[test]
fn names_that_outgrow_the_file() {
    let mut file = Vec::new();
    map_len(&mut file, 1);
    string(&mut file, &"x".repeat(400));
    map_len(&mut file, 1000);
    for i in 0..1000 {
        string(&mut file, &i.to_string());
        extension(&mut file, 1, &triple(&[], "float16", &[0; 2], Form::Array));
    }
    assert_says(
        &refused(&file),
        "the names take more than the file's own size",
    );
}

#[test]
fn maps_nested_too_deep() {
    let nested = |depth| {
        (1..depth).fold(
            map([("x", leaf(DType::F32, &[1], Form::Array, 0))]),
            |node, _| map([("a", node)]),
        )
    };
    open(&encode(&nested(64))).unwrap();
    assert_says(&refused(&encode(&nested(65))), "more than 64 deep");
    assert_says(
        &refused(&[0x81, 0xa1, b'a'].repeat(100_000)),
        "more than 64 deep",
    );
}

#[test]
fn two_tensors_of_one_name() {
    let tensor = leaf(DType::F32, &[1], Form::Array, 0);
    for file in [
        map([("a", tensor.clone()), ("a", tensor.clone())]),
        map([("a/b", tensor.clone()), ("a", map([("b", tensor.clone())]))]),
    ] {
        let error = open(&encode(&file)).unwrap_err();
        assert!(matches!(error, Error::Duplicate { .. }), "{error}");
        assert_says(&error.to_string(), FILE);
    }
}

#[test]
fn control_characters_in_a_name_stay_within_the_message_line() {
    let file = map([("a\nb", map([("c", leaf(DType::F32, &[1], Form::Array, 0))]))]);
    let mut bytes = encode(&file);
    bytes.pop();
    assert_says(&refused(&bytes), r#"tensor "a\nb/c""#);
}
