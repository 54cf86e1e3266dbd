//! npz and safetensors bytes that no one wrote on purpose: whatever they are, an answer, and never
//! a panic.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error};
use gemma_xla::dtype::DType;
use proptest::collection::vec;
use proptest::prelude::*;
use zip::CompressionMethod::{Deflated, Stored};

use super::mangled::{apply, edits};
use super::samples::{Array, npz, safetensors};

const FILE: &str = "sample";

/// Arrays under names that are known and names that are not.
fn sample() -> Vec<Array> {
    vec![
        Array::counting(
            "transformer/layer_0/attn/q_einsum/w",
            DType::BF16,
            &[2, 3, 4],
        ),
        Array::counting(
            "transformer/layer_0/attn/kv_einsum/w",
            DType::F32,
            &[2, 1, 3, 4],
        ),
        Array::counting(
            "transformer/layer_0/mlp/gating_einsum",
            DType::F16,
            &[2, 5, 3],
        ),
        Array::counting("x", DType::F32, &[]),
    ]
}

/// Where the bytes made a checkpoint, its tensors must be whole.
fn survive(opened: Result<Checkpoint, Error>) -> Result<(), TestCaseError> {
    match opened {
        Ok(checkpoint) => {
            for tensor in checkpoint.tensors() {
                let elements: usize = tensor.shape().iter().product();
                prop_assert_eq!(tensor.byte_len(), elements * tensor.dtype().size());
                let (mut whole, mut parts) =
                    (vec![0; tensor.byte_len()], vec![0; tensor.byte_len()]);
                tensor.read_into(tensor.dtype(), &mut whole).unwrap();
                tensor.read_at(0, &mut parts).unwrap();
                prop_assert_eq!(whole, parts);
            }
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(
                message.contains(FILE) && !message.contains('\n'),
                "{}",
                message
            );
        }
    }
    Ok(())
}

fn open_npz(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_npz(Path::new(FILE), bytes)
}

fn open_safetensors(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_safetensors(Path::new(FILE), bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_mangled_safetensors_file_never_panics(edits in edits()) {
        survive(open_safetensors(apply(safetensors(&sample()), edits)))?;
    }

    #[test]
    fn a_mangled_stored_npz_never_panics(edits in edits()) {
        survive(open_npz(apply(npz(&sample(), Stored), edits)))?;
    }

    #[test]
    fn a_mangled_deflated_npz_never_panics(edits in edits()) {
        survive(open_npz(apply(npz(&sample(), Deflated), edits)))?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        survive(open_npz(bytes.clone()))?;
        survive(open_safetensors(bytes.clone()))?;
        let header = [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat();
        survive(open_safetensors(header))?;
    }

    #[test]
    fn any_text_as_a_safetensors_header_never_panics(text in "[\\[\\]{}\",:0-9a-z_]{0,80}") {
        let file = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        survive(open_safetensors(file))?;
    }
}

#[test]
fn every_byte_of_an_npz_file_set_to_some_values_never_panics() {
    for method in [Stored, Deflated] {
        let whole = npz(&sample(), method);
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 0x20] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                survive(open_npz(bytes)).unwrap();
            }
        }
    }
}
