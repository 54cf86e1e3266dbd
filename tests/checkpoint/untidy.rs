//! What msgpack files have beside parameters: other element types, and an optimiser's state.

use gemma_xla::dtype::DType;

use super::encode::{Form, extension, map_len, open, refused, string, triple};
use super::malformed::{assert_says, two_floats, with_extension};

/// A file with `x`, two float32, and after it this tensor.
fn with_another(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    map_len(&mut out, 2);
    string(&mut out, "x");
    extension(&mut out, 1, &two_floats());
    string(&mut out, name);
    extension(&mut out, 1, content);
    out
}

#[test]
fn float64_is_read_as_float32() {
    let values = [0.1_f64, -2.5, 1.0e300];
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = with_extension(1, &triple(&[3], "float64", &data, Form::Array));
    let checkpoint = open(&file).unwrap();
    let x = checkpoint.get("model/x").unwrap();
    assert_eq!((x.dtype(), x.byte_len()), (DType::F32, 12));
    let mut bytes = [0; 12];
    x.read_into(DType::F32, &mut bytes).unwrap();
    let narrow: Vec<u8> = [0.1_f32, -2.5, f32::INFINITY]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(bytes, *narrow);
}

#[test]
fn integers_are_left_out() {
    for (dtype, shape, bytes) in [
        ("int32", &[][..], 4),
        ("int64", &[1, 3], 24),
        ("bool", &[2, 2], 4),
    ] {
        let content = triple(shape, dtype, &vec![0; bytes], Form::Array);
        let checkpoint = open(&with_another("ids", &content)).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x"]);
        assert_eq!(checkpoint.left_out(), ["ids"], "{dtype}");
    }
}

#[test]
fn buffers_that_the_configuration_gives_are_left_out() {
    let file = with_another("model.layers.0.rotary_emb.inv_freq", &two_floats());
    let checkpoint = open(&file).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn a_training_state_is_named_as_such() {
    for key in ["step", "opt_state"] {
        let message = refused(&with_another(key, &two_floats()));
        assert_says(&message, key);
        assert_says(&message, "training state");
    }
    // As flax.serialization writes a TrainState: the step is a plain number.
    let mut out = Vec::new();
    map_len(&mut out, 1);
    string(&mut out, "step");
    out.push(7);
    assert_says(&refused(&out), "training state");
}

#[test]
fn a_pointer_and_a_web_page_are_named_as_such() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00";
    assert_says(&refused(pointer), "git lfs pull");
    assert_says(&refused(b"<html><body>Sign in</body></html>"), "HTML page");
}
