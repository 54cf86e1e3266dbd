//! Checkpoints in shards: the index, and whether the shards are as it says.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error, Format};
use gemma_xla::dtype::DType;
use tempfile::TempDir;

use super::encode::{Form, Node, encode, leaf, map};

const INDEX: &str = "flax_model.msgpack.index.json";
const FIRST: &str = "flax_model-00001-of-00002.msgpack";
const SECOND: &str = "flax_model-00002-of-00002.msgpack";

fn tensor(first: u8) -> Node {
    leaf(DType::F32, &[3], Form::Array, first)
}

/// A folder with two shards, `a/x` and `a/y` in the first, `b` in the second, and this index.
fn folder(index: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write(
        FIRST,
        &encode(&map([("a/x", tensor(1)), ("a/y", tensor(2))])),
    );
    write(SECOND, &encode(&map([("b", tensor(3))])));
    write(INDEX, index.as_bytes());
    dir
}

/// An index with these pairs.
fn index(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, file)| format!("{name:?}: {file:?}"))
        .collect();
    format!(
        r#"{{"metadata": {{"total_size": 36}}, "weight_map": {{{}}}}}"#,
        pairs.join(", ")
    )
}

/// What opening a folder with this index says: one line.
#[track_caller]
fn refused(text: &str) -> (Error, String) {
    let error = Checkpoint::open(folder(text).path()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(INDEX), "names no index: {message}");
    assert!(!message.contains('\n'), "more than a line: {message}");
    (error, message)
}

#[test]
fn shards_make_one_checkpoint() {
    let dir = folder(&index(&[("a/x", FIRST), ("a/y", FIRST), ("b", SECOND)]));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.format(), Format::FlaxMsgpackSharded);
    assert_eq!(checkpoint.path(), dir.path().join(INDEX));
    assert_eq!(
        checkpoint.files(),
        [dir.path().join(FIRST), dir.path().join(SECOND)]
    );
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a/x", "a/y", "b"]);
    assert_eq!(checkpoint.total_bytes(), 36);
    let (b, mut bytes) = (checkpoint.get("b").unwrap(), [0; 12]);
    b.read_at(0, &mut bytes).unwrap();
    assert_eq!((b.file(), bytes[0]), (dir.path().join(SECOND).as_path(), 3));
}

#[test]
fn a_single_file_is_preferred_to_an_index() {
    let dir = folder("not an index");
    std::fs::write(
        dir.path().join("flax_model.msgpack"),
        encode(&map([("c", tensor(1))])),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn an_empty_shard_that_flax_writes_before_a_large_first_tensor_is_passed_over() {
    let dir = folder(&index(&[("b", SECOND)]));
    std::fs::write(dir.path().join(FIRST), encode(&map([]))).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 1);
}

#[test]
fn a_missing_shard_is_named() {
    let (error, message) = refused(&index(&[
        ("a/x", FIRST),
        ("a/y", FIRST),
        ("b", "flax_model-3.msgpack"),
    ]));
    assert!(matches!(error, Error::MissingShard { .. }), "{message}");
    assert!(
        message.contains("flax_model-3.msgpack") && message.contains("\"b\""),
        "{message}"
    );
}

#[test]
fn a_shard_outside_of_the_folder_is_refused() {
    for path in [
        "../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/file",
        "./file",
        "file/",
        r"..\file",
        "c:file",
        "a\nb",
    ] {
        let (error, message) = refused(&index(&[("a/x", path)]));
        assert!(matches!(error, Error::ShardName { .. }), "{message}");
    }
}

#[test]
fn a_tensor_that_its_shard_has_not_is_named() {
    let (error, message) = refused(&index(&[
        ("a/x", FIRST),
        ("a/y", FIRST),
        ("a/z", FIRST),
        ("b", SECOND),
    ]));
    assert!(matches!(error, Error::NotInShard { .. }), "{message}");
    assert!(
        message.contains("\"a/z\"") && message.contains(FIRST),
        "{message}"
    );
}

#[test]
fn a_tensor_that_the_index_lacks_is_left_out() {
    let dir = folder(&index(&[("a/x", FIRST), ("b", SECOND)]));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a/x", "b"]);
    assert_eq!(checkpoint.left_out(), ["a/y"]);
}

#[test]
fn tensors_that_their_shard_lacks_are_counted() {
    let (_, message) = refused(&index(&[
        ("a/x", FIRST),
        ("a/y", FIRST),
        ("b", SECOND),
        ("c", SECOND),
        ("d", SECOND),
        ("e", SECOND),
    ]));
    assert!(message.contains("\"c\""), "{message}");
    assert!(message.contains("2 more are missing"), "{message}");
}

#[test]
fn a_tensor_in_another_shard_than_the_index_says_is_named() {
    let (error, message) = refused(&index(&[("a/x", FIRST), ("a/y", SECOND), ("b", SECOND)]));
    assert!(matches!(error, Error::NotInIndex { .. }), "{message}");
    assert!(message.contains("\"a/y\""), "{message}");
}

#[test]
fn an_index_that_is_no_index_is_named() {
    for text in [
        "",
        "[]",
        "{}",
        "nonsense",
        r#"{"weight_map": []}"#,
        r#"{"weight_map": {"a": 1}}"#,
        "{\"weight_map\": {\"a\": \"b\"",
    ] {
        let (error, message) = refused(text);
        assert!(matches!(error, Error::Index { .. }), "{text}: {message}");
    }
    let (error, _) = refused(r#"{"weight_map": {}}"#);
    assert!(matches!(error, Error::EmptyIndex { .. }));
}

#[test]
fn an_index_that_names_a_tensor_twice_is_refused() {
    let (error, _) = refused(&index(&[("a/x", FIRST), ("a/x", SECOND)]));
    let Error::Index { source, .. } = error else {
        panic!("{error}")
    };
    assert!(
        source.to_string().contains("names tensor \"a/x\" twice"),
        "{source}"
    );
}

#[test]
fn an_index_nested_without_end_is_refused() {
    let (error, _) = refused(&format!("{{\"metadata\": {}", "[".repeat(1_000_000)));
    assert!(matches!(error, Error::Index { .. }));
}

#[test]
fn a_malformed_shard_is_named_itself() {
    let dir = folder(&index(&[("a/x", FIRST), ("a/y", FIRST), ("b", SECOND)]));
    std::fs::write(dir.path().join(SECOND), [0x81]).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Msgpack { file, .. } if file.ends_with(Path::new(SECOND))),
        "{error}"
    );
}
