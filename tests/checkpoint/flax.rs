//! Files that Flax itself wrote (`tests/data/msgpack/make.py` says how).

use std::path::PathBuf;

use gemma_xla::checkpoint::{Checkpoint, Tensor};
use gemma_xla::dtype::DType;
use half::{bf16, f16};

fn sample(name: &str) -> Checkpoint {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/data/msgpack", name]
        .iter()
        .collect();
    Checkpoint::open_msgpack_file(&file).unwrap()
}

/// Name, dtype and shape of every tensor, in the order of names.
fn listing(checkpoint: &Checkpoint) -> Vec<(&str, DType, &[usize])> {
    checkpoint
        .tensors()
        .map(|t| (t.name(), t.dtype(), t.shape()))
        .collect()
}

/// Asserts that the tensor's elements are 0, 1, 2, …
fn assert_counts(tensor: &Tensor) {
    let mut bytes = vec![0; tensor.byte_len()];
    tensor.read_at(0, &mut bytes).unwrap();
    let values: Vec<f32> = match tensor.dtype() {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        DType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
        DType::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32())
            .collect(),
    };
    assert_eq!(values.len(), tensor.shape().iter().product::<usize>());
    for (i, value) in values.into_iter().enumerate() {
        // Counting in bfloat16 rounds above 256, and Flax stored what it rounded to.
        let expected = match tensor.dtype() {
            DType::BF16 => bf16::from_f32(i as f32).to_f32(),
            _ => i as f32,
        };
        assert_eq!(value, expected, "{} [{i}]", tensor.name());
    }
}

const TREE: [(&str, DType, &[usize]); 7] = [
    ("model/embed_tokens/embedding", DType::F32, &[5, 8]),
    ("model/layers/0/bias", DType::F16, &[4]),
    ("model/layers/0/kernel", DType::BF16, &[3, 4]),
    ("model/layers/1/empty", DType::F32, &[0, 7]),
    ("model/layers/1/kernel", DType::BF16, &[4, 3]),
    ("model/norm/scalar", DType::F16, &[]),
    ("model/norm/zero_dimensional", DType::F32, &[]),
];

#[test]
fn reads_a_nested_tree_with_lists_and_scalars() {
    let checkpoint = sample("nested.msgpack");
    assert_eq!(listing(&checkpoint), TREE);
    checkpoint.tensors().for_each(assert_counts);
}

#[test]
fn reads_arrays_that_flax_cut_into_chunks() {
    let checkpoint = sample("chunked.msgpack");
    assert_eq!(listing(&checkpoint), TREE);
    checkpoint.tensors().for_each(assert_counts);
}

#[test]
fn reads_a_flat_map_of_joined_names() {
    let checkpoint = sample("flat.msgpack");
    assert_eq!(
        listing(&checkpoint),
        [
            ("model/embed_tokens/embedding", DType::F32, &[5, 8][..]),
            ("model/norm/weight", DType::BF16, &[300][..]),
        ]
    );
    checkpoint.tensors().for_each(assert_counts);
    assert_eq!(checkpoint.total_bytes(), 5 * 8 * 4 + 300 * 2);
}
