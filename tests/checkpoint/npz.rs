//! npz files: what numpy writes is read, and one case for each way in which a file can be wrong.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error};
use gemma_xla::dtype::DType;
use zip::CompressionMethod::{Deflated, Stored};

use super::samples::{Array, archive, arrays, npy, npy_head, npz};

const FILE: &str = "sample.npz";

fn open(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_npz(Path::new(FILE), bytes)
}

fn sample() -> Vec<Array> {
    vec![
        Array::counting("a/float32", DType::F32, &[3, 5]),
        Array::counting("b.float16", DType::F16, &[300, 40]),
        Array::counting("c", DType::BF16, &[7]),
        Array::counting("d", DType::F32, &[]),
        Array::counting("e", DType::F16, &[4, 0]),
    ]
}

/// The message of a file that must be refused: one line that names the file, and has all of
/// `parts`.
#[track_caller]
fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let message = open(bytes).expect_err("this file is malformed").to_string();
    assert!(message.starts_with(FILE), "names no file: {message}");
    assert!(!message.contains('\n'), "more than a line: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A file with one array `x` that has this head and these bytes, refused.
#[track_caller]
fn refused_array(dictionary: &str, data: &[u8], parts: &[&str]) {
    let member = [npy_head(dictionary), data.to_vec()].concat();
    for method in [Stored, Deflated] {
        let file = archive(&[("x.npy", member.clone())], method);
        refused(file, &[&["\"x.npy\""], parts].concat());
    }
}

/// The sample with bytes of a directory record's fixed part replaced.
fn patched(file: Vec<u8>, record: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file;
    let starts: Vec<usize> = (0..file.len() - 4)
        .filter(|&i| file[i..i + 4] == *b"PK\x01\x02")
        .collect();
    file[starts[record] + at..][..bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn stored_and_deflated_members_read_back() {
    for method in [Stored, Deflated] {
        assert_eq!(arrays(&open(npz(&sample(), method)).unwrap()), sample());
    }
}

#[test]
fn a_member_of_many_buffers_is_unpacked_whole() {
    let array = Array::counting("x", DType::F32, &[700, 301]);
    let file = npz(std::slice::from_ref(&array), Deflated);
    assert_eq!(arrays(&open(file).unwrap()), [array]);
}

#[test]
fn fortran_order_is_read_as_the_array_that_it_is() {
    let array = Array::counting("x", DType::BF16, &[3, 4, 5]);
    for method in [Stored, Deflated] {
        let file = archive(&[("x.npy", npy(&array, true))], method);
        assert_eq!(arrays(&open(file).unwrap()), std::slice::from_ref(&array));
    }
}

#[test]
fn every_way_that_numpy_and_ml_dtypes_name_bfloat16() {
    for descr in ["|V2", "<V2", "bfloat16"] {
        let head = npy_head(&format!(
            "{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}"
        ));
        let file = archive(&[("x.npy", [head, vec![1, 2]].concat())], Stored);
        let checkpoint = open(file).unwrap();
        assert_eq!(checkpoint.get("x").unwrap().dtype(), DType::BF16);
    }
}

#[test]
fn a_file_cut_short_at_any_byte() {
    let whole = npz(&sample()[2..], Deflated);
    open(whole.clone()).unwrap();
    for len in 0..whole.len() {
        refused(whole[..len].to_vec(), &[]);
    }
}

#[test]
fn a_git_lfs_pointer_or_a_web_page() {
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00".to_vec(),
        &["Git LFS pointer", "git lfs pull"],
    );
    refused(b"<!DOCTYPE html><html>".to_vec(), &["HTML page"]);
}

/// A member with this dtype, shape and data.
fn member(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}");
    [npy_head(&head), data.to_vec()].concat()
}

#[test]
fn float64_is_read_as_float32() {
    let values = [1.5_f64, -1.0e300, 1.0 + 2.0_f64.powi(-24) * 1.5, 0.1];
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    for method in [Stored, Deflated] {
        let file = archive(&[("x.npy", member("<f8", "(2, 2)", &data))], method);
        let checkpoint = open(file).unwrap();
        let x = checkpoint.get("x").unwrap();
        assert_eq!(
            (x.dtype(), x.shape(), x.byte_len()),
            (DType::F32, &[2, 2][..], 16)
        );
        let mut whole = [0; 16];
        x.read_at(0, &mut whole).unwrap();
        let found: Vec<f32> = whole
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let narrow: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        assert_eq!(found, narrow);
        // Ranges may begin and end anywhere.
        for begin in 0..16 {
            for end in begin..=16 {
                let mut part = vec![0; end - begin];
                x.read_at(begin, &mut part).unwrap();
                assert_eq!(part, whole[begin..end], "{begin}..{end}");
            }
        }
    }
}

#[test]
fn arrays_of_other_types_are_left_out() {
    let kept = npy(&sample()[0], false);
    for (descr, size) in [("<i4", 4), ("<i8", 8), ("|b1", 1), ("<u2", 2)] {
        let ids = member(descr, "(1, 3)", &vec![0; 3 * size]);
        let file = archive(&[("ids.npy", ids), ("x.npy", kept.clone())], Deflated);
        let checkpoint = open(file).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x"], "{descr}");
        assert_eq!(checkpoint.left_out(), ["ids"], "{descr}");
    }
}

#[test]
fn a_matrix_of_bytes_is_named_as_quantised() {
    for descr in ["|i1", "|u1"] {
        let file = archive(&[("w.npy", member(descr, "(2, 3)", &[0; 6]))], Stored);
        refused(file, &["\"w\"", "[2, 3]", "int8", "quantised"]);
    }
}

#[test]
fn dimensions_as_python_2_wrote_them() {
    let file = archive(&[("x.npy", member("<f4", "(2L, 1L)", &[0; 8]))], Stored);
    assert_eq!(open(file).unwrap().get("x").unwrap().shape(), [2, 1]);
}

#[test]
fn a_pickled_array() {
    for descr in ["O", "|O"] {
        let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}");
        refused_array(&head, b"\x80\x04.", &["pickle"]);
    }
}

#[test]
fn a_dtype_that_is_not_read() {
    for descr in [">f4", ">f8", "|V4", "<c8", "<U5", "|S3"] {
        let head = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}");
        refused_array(&head, &[0; 8], &["unknown dtype", descr]);
    }
    let head = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}";
    refused_array(head, &[0; 4], &["a record of fields"]);
}

#[test]
fn fewer_or_more_bytes_than_the_shape_needs() {
    let head = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    for len in [0, 20, 28] {
        refused_array(
            head,
            &vec![0; len],
            &["[2, 3] of float32 needs 24 bytes", &format!("found {len}")],
        );
    }
}

#[test]
fn a_shape_that_overflows() {
    let huge = usize::MAX;
    let head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({huge}, 2), }}");
    refused_array(&head, &[], &["too large"]);
    let head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({huge}0,), }}");
    refused_array(&head, &[], &["dimension"]);
    // Without elements, but not in every order of its dimensions.
    let head = format!("{{'descr': '<f4', 'fortran_order': True, 'shape': (0, {huge}, {huge}), }}");
    refused_array(&head, &[], &["too large"]);
    let ones = "1, ".repeat(65);
    let head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ones}), }}");
    refused_array(&head, &[0; 4], &["dimensions"]);
}

#[test]
fn a_header_that_is_no_dictionary_of_numpys() {
    for head in [
        "",
        "{",
        "[]",
        "{'descr': '<f4'}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} {}",
        "{'descr': '<f4",
        "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 + 1,)}",
        "{'descr': [[[[[[[]]]]]]], 'fortran_order': False, 'shape': (1,)}",
    ] {
        refused_array(head, &[0; 4], &["header is malformed"]);
    }
}

#[test]
fn a_header_longer_than_numpys() {
    let spaces = " ".repeat(20_000);
    let head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}}{spaces}");
    refused_array(&head, &[0; 4], &["more than 10000"]);
}

#[test]
fn a_member_that_is_no_npy_file() {
    refused(
        archive(&[("x.npy", b"nothing".to_vec())], Stored),
        &["\"x.npy\"", "magic"],
    );
    refused(
        archive(&[("x.txt", Vec::new())], Stored),
        &["\"x.txt\"", "not an array"],
    );
    refused(archive(&[(".npy", Vec::new())], Stored), &["not an array"]);
    let mut later = npy_head("{}");
    later[6] = 9;
    refused(archive(&[("x.npy", later)], Stored), &["version"]);
}

#[test]
fn a_name_that_climbs_out_of_a_folder() {
    let array = npy(&sample()[0], false);
    for name in [
        "../x.npy",
        "a/../../x.npy",
        "/x.npy",
        "a//x.npy",
        "./x.npy",
        r"..\x.npy",
        "c:x.npy",
        "a\nb.npy",
    ] {
        // The archive's writer may have its own mind about such names: give it another, and put
        // this in its place.
        let plain = "q".repeat(name.len());
        let file = archive(&[(&plain, array.clone())], Stored);
        let file = replaced(file, plain.as_bytes(), name.as_bytes());
        refused(file, &["not a plain relative path"]);
    }
}

/// Every occurrence of bytes replaced by as many others.
fn replaced(mut file: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    for at in 0..file.len() - from.len() {
        if file[at..].starts_with(from) {
            file[at..at + to.len()].copy_from_slice(to);
        }
    }
    file
}

#[test]
fn a_name_that_occurs_twice() {
    let array = npy(&sample()[0], false);
    let file = archive(&[("xx.npy", array.clone()), ("xy.npy", array)], Stored);
    refused(
        replaced(file, b"xy.npy", b"xx.npy"),
        &["\"xx.npy\"", "twice"],
    );
}

#[test]
fn a_link() {
    let with_mode = |mode: u32| patched(npz(&sample(), Stored), 1, 38, &(mode << 16).to_le_bytes());
    open(with_mode(0o100_644)).unwrap();
    refused(with_mode(0o120_777), &["\"b.float16.npy\"", "link"]);
}

#[test]
fn an_encrypted_member_or_one_compressed_otherwise() {
    refused(
        patched(npz(&sample(), Stored), 0, 8, &[1, 0]),
        &["encrypted"],
    );
    refused(
        patched(npz(&sample(), Stored), 0, 10, &[12, 0]),
        &["method 12"],
    );
}

#[test]
fn a_member_outside_of_the_file() {
    let wrong = u32::MAX - 1;
    refused(
        patched(npz(&sample(), Stored), 2, 42, &wrong.to_le_bytes()),
        &["not within the file"],
    );
    let both = [wrong.to_le_bytes(), wrong.to_le_bytes()].concat();
    refused(
        patched(npz(&sample(), Stored), 2, 20, &both),
        &["not within the file"],
    );
}

#[test]
fn members_that_share_bytes() {
    let array = npy(&sample()[0], false);
    let file = archive(&[("x.npy", array.clone()), ("y.npy", array)], Deflated);
    // The second member's record points to the first member.
    refused(patched(file, 1, 42, &[0; 4]), &["overlap"]);
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let size = 1_000_000_000_u32.to_le_bytes();
    refused(
        patched(npz(&sample(), Deflated), 1, 24, &size),
        &["cannot unpack to 1000000000"],
    );
}

#[test]
fn packed_bytes_that_are_damaged() {
    let array = Array::counting("x", DType::F32, &[1000]);
    let file = npz(&[array], Deflated);
    refused(
        patched(file.clone(), 0, 16, &[1, 2, 3, 4]),
        &["\"x.npy\"", "checksum"],
    );
    let at = 30 + "x.npy".len() + 200;
    let mut flipped = file;
    flipped[at] ^= 0x55;
    refused(flipped, &["\"x.npy\""]);
}

#[test]
fn a_large_archive_is_unpacked_when_it_is_read() {
    let small = Array::counting("y", DType::F32, &[10]);
    let array = Array {
        name: "x".to_owned(),
        dtype: DType::F32,
        shape: vec![17 << 20],
        bytes: vec![0; 68 << 20],
    };
    let file = npz(&[array, small.clone()], Deflated);
    let checkpoint = open(file.clone()).unwrap();
    assert_eq!(checkpoint.get("x").unwrap().shape(), [17 << 20]);
    let y = checkpoint.get("y").unwrap();
    assert_eq!(Array::of(y), small);

    // What is damaged shows then, and names the file and the member.
    let mut damaged = file;
    let at = 30 + "x.npy".len() + 200;
    damaged[at] ^= 0x55;
    let checkpoint = open(damaged).unwrap();
    let x = checkpoint.get("x").unwrap();
    let error = x.read_at(0, &mut [0; 4]).unwrap_err();
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        message = format!("{message}: {source}");
    }
    assert!(
        message.contains("\"x\"") && message.contains("\"x.npy\""),
        "{message}"
    );
}

#[test]
fn what_is_no_archive() {
    for bytes in [&b""[..], b"PK", &[0; 100]] {
        refused(bytes.to_vec(), &["not a valid zip archive"]);
    }
}
