//! Reading tensors: whole, in ranges, over the seams of chunks, from several threads, from files.

use std::collections::BTreeMap;
use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error, Format, Tensor};
use gemma_xla::dtype::DType;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::encode::{Form, Leaf, Node, encode, everything, flatten, leaf, map, open};

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.byte_len()];
    tensor.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Asserts that a checkpoint has a tree's leaves, and nothing else.
fn assert_holds(checkpoint: &Checkpoint, tree: &Node) {
    let leaves: BTreeMap<String, Leaf> = flatten(tree).into_iter().collect();
    assert!(checkpoint.names().eq(leaves.keys().map(String::as_str)));
    for (name, leaf) in &leaves {
        let tensor = checkpoint.get(name).unwrap();
        assert_eq!(tensor.name(), name);
        assert_eq!(tensor.dtype(), leaf.dtype, "{name}");
        assert_eq!(tensor.shape(), leaf.shape, "{name}");
        assert_eq!(bytes_of(tensor), leaf.bytes, "{name}");
    }
    let total: usize = leaves.values().map(|leaf| leaf.bytes.len()).sum();
    assert_eq!(checkpoint.total_bytes(), total as u64);
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

fn leaves() -> impl Strategy<Value = Node> {
    let forms = prop_oneof![
        Just(Form::Array),
        Just(Form::OldArray),
        (1..9_usize).prop_map(Form::Chunks),
    ];
    (dtypes(), vec(0..6_usize, 0..4), forms, any::<u8>()).prop_map(|(dtype, shape, form, first)| {
        let form = match form {
            // Flax cuts large arrays only: none without elements.
            Form::Chunks(_) if shape.contains(&0) => Form::Array,
            Form::Array if shape.is_empty() && first % 2 == 0 => Form::Scalar,
            form => form,
        };
        leaf(dtype, &shape, form, first)
    })
}

/// Random trees. Keys have no slash, so that no two joined names are alike.
pub fn trees() -> impl Strategy<Value = Node> {
    let nodes = leaves().prop_recursive(4, 40, 6, |inner| children(inner).boxed());
    children(nodes)
}

fn children(nodes: impl Strategy<Value = Node>) -> impl Strategy<Value = Node> {
    btree_map("[a-z0-9_ é.]{1,40}", nodes, 0..6)
        .prop_map(|named| Node::Map(named.into_iter().collect()))
}

proptest! {
    #[test]
    fn every_tree_reads_back_as_it_was_written(tree in trees()) {
        assert_holds(&open(&encode(&tree)).unwrap(), &tree);
    }

    #[test]
    fn any_range_of_a_chunked_tensor_is_that_range_of_its_bytes(
        elements in 1..60_usize, chunk in 1..20_usize, a in 0..121_usize, b in 0..121_usize,
    ) {
        let array = Leaf::counting(DType::BF16, &[elements], Form::Chunks(chunk), 9);
        let (a, b) = (a.min(array.bytes.len()), b.min(array.bytes.len()));
        let (start, end) = (a.min(b), a.max(b));
        let checkpoint = open(&encode(&map([("x", Node::Leaf(array.clone()))]))).unwrap();
        let mut out = vec![0; end - start];
        checkpoint.get("x").unwrap().read_at(start, &mut out).unwrap();
        prop_assert_eq!(&out, &array.bytes[start..end]);
    }
}

#[test]
fn every_structure_reads_back() {
    let tree = everything();
    assert_holds(&open(&encode(&tree)).unwrap(), &tree);
}

#[test]
fn a_range_beyond_the_tensor_is_refused() {
    let checkpoint = open(&encode(&everything())).unwrap();
    let tensor = checkpoint.get("model/embed").unwrap();
    for (start, len) in [
        (0, 161),
        (160, 1),
        (161, 0),
        (usize::MAX, 1),
        (usize::MAX, 0),
    ] {
        let error = tensor.read_at(start, &mut vec![0; len]).unwrap_err();
        assert!(
            matches!(error, Error::OutOfRange { byte_len: 160, .. }),
            "{start} {len}: {error}"
        );
    }
    tensor.read_at(160, &mut []).unwrap();
}

#[test]
fn an_unknown_name_gives_none() {
    assert!(open(&encode(&everything())).unwrap().get("model").is_none());
}

#[test]
fn a_folder_with_one_file_opens_and_is_read_by_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flax_model.msgpack");
    let array = Leaf::counting(DType::F32, &[100, 1000], Form::Chunks(30_001), 3);
    std::fs::write(&file, encode(&map([("x", Node::Leaf(array.clone()))]))).unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.format(), Format::FlaxMsgpack);
    assert_eq!(checkpoint.files(), std::slice::from_ref(&file));
    let tensor = checkpoint.get("x").unwrap();
    assert_eq!(tensor.file(), file);
    let mut bytes = vec![0; tensor.byte_len()];
    std::thread::scope(|scope| {
        for (i, part) in bytes.chunks_mut(50_000).enumerate() {
            scope.spawn(move || tensor.read_at(i * 50_000, part).unwrap());
        }
    });
    assert_eq!(bytes, array.bytes);
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error_that_names_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flax_model.msgpack");
    std::fs::write(&file, encode(&everything())).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(40)
        .unwrap();
    let tensor = checkpoint.get("model/layers/0/kernel").unwrap();
    let error = tensor
        .read_at(0, &mut vec![0; tensor.byte_len()])
        .unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::Read { .. }), "{message}");
    assert!(message.contains("flax_model.msgpack") && message.contains("model/layers/0/kernel"));
}

#[test]
fn a_folder_without_weights_names_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("flax_model.msgpack, flax_model.msgpack.index.json"),
        "{message}"
    );
    let message = Checkpoint::open(Path::new("no/such/folder"))
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("no/such/folder"), "{message}");
}

#[test]
fn a_folder_in_place_of_the_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("flax_model.msgpack")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Open { file, .. } if file.ends_with("flax_model.msgpack")),
        "{error}"
    );
}
