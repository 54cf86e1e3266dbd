//! safetensors files: what the format's library writes is read, and one case for each way in which
//! a file can be wrong.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error, Format};
use gemma_xla::dtype::DType;

use super::samples::{Array, arrays, safetensors, safetensors_with};

const FILE: &str = "sample.safetensors";

fn open(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_safetensors(Path::new(FILE), bytes)
}

fn sample() -> Vec<Array> {
    vec![
        Array::counting("a", DType::F32, &[3, 5]),
        Array::counting("b", DType::F16, &[]),
        Array::counting("c", DType::BF16, &[2, 0, 4]),
        Array::counting("d", DType::BF16, &[9]),
    ]
}

#[track_caller]
fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let message = open(bytes).expect_err("this file is malformed").to_string();
    assert!(message.starts_with(FILE), "names no file: {message}");
    assert!(!message.contains('\n'), "more than a line: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Refuses a file of 8 bytes of tensors whose header says this of tensor `x`.
#[track_caller]
fn refused_tensor(value: &str, parts: &[&str]) {
    let file = safetensors_with(&format!(r#"{{"x": {value}}}"#), &[0; 8]);
    refused(file, &[&["\"x\""], parts].concat());
}

#[test]
fn what_was_written_reads_back() {
    assert_eq!(arrays(&open(safetensors(&sample())).unwrap()), sample());
}

#[test]
fn metadata_and_padding_are_passed_over() {
    let header = r#"{"__metadata__": {"format": "pt"}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}    "#;
    let checkpoint = open(safetensors_with(header, &[7; 8])).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn a_file_cut_short_at_any_byte() {
    let whole = safetensors(&sample());
    for len in 0..whole.len() {
        refused(whole[..len].to_vec(), &[]);
    }
}

#[test]
fn a_header_that_is_longer_than_the_file_or_than_any() {
    refused(vec![0; 7], &["cut short"]);
    refused(
        [&99_u64.to_le_bytes()[..], b"{}"].concat(),
        &["needs 107 bytes, the file has 10"],
    );
    for length in [100_000_001, u64::MAX] {
        refused(length.to_le_bytes().to_vec(), &["more than 100000000"]);
    }
}

#[test]
fn a_git_lfs_pointer() {
    refused(
        b"version https://git-lfs.github.com/spec/v1".to_vec(),
        &["git lfs pull"],
    );
}

#[test]
fn a_header_that_is_not_of_the_form() {
    for header in [
        "",
        "[]",
        "{",
        "nonsense",
        r#"{"x": 1}"#,
        r#"{"x": {"dtype": "F32", "shape": [2]}}"#,
        r#"{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}"#,
        r#"{"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#,
        r#"{"x": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}}"#,
        r#"{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "more": 1}}"#,
        "{\"x\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}\u{0}",
        // What is quoted in the message has a line end.
        r#"{"x": {"a key\nof two lines": 1}}"#,
    ] {
        refused(safetensors_with(header, &[0; 8]), &["header is malformed"]);
    }
    refused(
        safetensors_with(&"[".repeat(1_000_000), &[]),
        &["header is malformed"],
    );
}

#[test]
fn a_dtype_that_is_not_read() {
    for dtype in ["C64", "I7", "f32", ""] {
        refused_tensor(
            &format!(r#"{{"dtype": "{dtype}", "shape": [2], "data_offsets": [0, 8]}}"#),
            &["unknown dtype", dtype],
        );
    }
}

#[test]
fn float64_is_read_as_float32() {
    let header = r#"{"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}"#;
    let data = [0.1_f64.to_le_bytes(), 3.0_f64.to_le_bytes()].concat();
    let checkpoint = open(safetensors_with(header, &data)).unwrap();
    let x = checkpoint.get("x").unwrap();
    let mut bytes = [0; 8];
    x.read_into(DType::F32, &mut bytes).unwrap();
    assert_eq!(x.dtype(), DType::F32);
    assert_eq!(
        bytes,
        *[0.1_f32.to_le_bytes(), 3.0_f32.to_le_bytes()].concat()
    );
    let mut halves = [0; 4];
    x.read_into(DType::BF16, &mut halves).unwrap();
    assert_eq!(halves[2..], [0x40, 0x40]);
}

#[test]
fn integers_are_left_out_and_quantised_weights_are_named() {
    let header = r#"{"x.position_ids": {"dtype": "I32", "shape": [1, 2], "data_offsets": [0, 8]}}"#;
    let checkpoint = open(safetensors_with(header, &[0; 8])).unwrap();
    assert_eq!(checkpoint.left_out(), ["x.position_ids"]);
    assert_eq!(checkpoint.tensors().len(), 0);
    for (dtype, shape) in [("I8", "[2, 4]"), ("U8", "[4, 2]"), ("F8_E4M3", "[8]")] {
        refused_tensor(
            &format!(r#"{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [0, 8]}}"#),
            &["quantised"],
        );
    }
}

#[test]
fn an_optimisers_state_is_named_as_training_state() {
    let header = r#"{"opt_state.0.mu": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
    refused(
        safetensors_with(header, &[0; 8]),
        &["opt_state.0.mu", "training state"],
    );
}

#[test]
fn offsets_out_of_the_file() {
    for (begin, end) in [
        (0_u64, 9_u64),
        (8, 16),
        (4, 2),
        (0, u64::MAX),
        (u64::MAX, 8),
    ] {
        refused_tensor(
            &format!(r#"{{"dtype": "F32", "shape": [2], "data_offsets": [{begin}, {end}]}}"#),
            &["not within the 8"],
        );
    }
}

#[test]
fn offsets_that_overlap_or_leave_a_gap() {
    let tensor = |begin: usize, end: usize| {
        let shape = (end - begin) / 2;
        format!(r#"{{"dtype": "F16", "shape": [{shape}], "data_offsets": [{begin}, {end}]}}"#)
    };
    let file = |first: String, second: String| {
        safetensors_with(&format!(r#"{{"x": {first}, "y": {second}}}"#), &[0; 8])
    };
    open(file(tensor(4, 8), tensor(0, 4))).unwrap();
    refused(
        file(tensor(0, 6), tensor(4, 8)),
        &["\"y\"", "do not begin where", "before it end"],
    );
    refused(
        file(tensor(0, 2), tensor(4, 8)),
        &["\"y\"", "do not begin where", "before it end"],
    );
    refused(file(tensor(0, 8), tensor(0, 8)), &["\"y\""]);
    refused(file(tensor(0, 2), tensor(2, 4)), &["4 bytes too many"]);
    refused_tensor(&tensor(2, 8), &["do not begin where"]);
}

#[test]
fn a_length_that_is_not_the_shapes() {
    for shape in ["[3]", "[1]", "[]", "[2, 0]"] {
        refused_tensor(
            &format!(r#"{{"dtype": "F32", "shape": {shape}, "data_offsets": [0, 8]}}"#),
            &["of F32 needs", "found 8"],
        );
    }
}

#[test]
fn a_shape_that_overflows() {
    let huge = usize::MAX;
    refused_tensor(
        &format!(r#"{{"dtype": "F32", "shape": [{huge}, 2], "data_offsets": [0, 8]}}"#),
        &["too large"],
    );
    let ones = vec!["1"; 65].join(",");
    refused_tensor(
        &format!(r#"{{"dtype": "F32", "shape": [{ones},2], "data_offsets": [0, 8]}}"#),
        &["dimensions"],
    );
}

#[test]
fn a_name_that_occurs_twice() {
    let tensor = r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#;
    let other = r#"{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}"#;
    let file = safetensors_with(&format!(r#"{{"x": {tensor}, "x": {other}}}"#), &[0; 8]);
    refused(file, &["\"x\"", "twice"]);
}

#[test]
fn a_name_that_is_too_long() {
    let name = "n".repeat(513);
    let header =
        format!(r#"{{"{name}": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}}}"#);
    refused(safetensors_with(&header, &[0; 8]), &["longer than 512"]);
}

#[test]
fn shards_with_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("model-1.safetensors", &safetensors(&sample()[..2]));
    write("model-2.safetensors", &safetensors(&sample()[2..]));
    write(
        "model.safetensors.index.json",
        br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors",
            "c": "model-2.safetensors", "d": "model-2.safetensors"}}"#,
    );
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.format(), Format::SafetensorsSharded);
    assert_eq!(arrays(&checkpoint), sample());
    write(
        "model.safetensors.index.json",
        br#"{"weight_map": {"a": "../model-1.safetensors"}}"#,
    );
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::ShardName { .. }), "{error}");
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error_that_names_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let stored = [Array::counting(
        "model.layers.0.mlp.up_proj.weight",
        DType::F32,
        &[64, 32],
    )];
    std::fs::write(&file, safetensors(&stored)).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(500)
        .unwrap();
    let tensor = checkpoint.get("model.layers.0.mlp.up_proj.weight").unwrap();
    let error = tensor
        .read_into(DType::F32, &mut vec![0; tensor.byte_len()])
        .unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("model.layers.0.mlp.up_proj.weight"),
        "{error}"
    );
}
