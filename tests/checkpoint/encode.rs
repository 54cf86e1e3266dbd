//! Writes msgpack as Flax does, by the description of its format and not by the reader's code.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Error};
use gemma_xla::dtype::DType;
use rmp::encode;

/// The name that errors give to bytes in memory.
pub const FILE: &str = "sample.msgpack";

/// How a leaf is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// One extension of type 1.
    Array,
    /// The same, with the bytes as a string, as before msgpack had a type for bytes.
    OldArray,
    /// One extension of type 3.
    Scalar,
    /// A map of flat chunks of so many elements.
    Chunks(usize),
}

/// A tree of named arrays.
#[derive(Clone, Debug)]
pub enum Node {
    Map(Vec<(String, Node)>),
    Leaf(Leaf),
}

/// An array with its bytes.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    pub form: Form,
}

impl Leaf {
    /// A leaf whose bytes count up from `first`, in such a way that no two short runs of them are
    /// alike.
    pub fn counting(dtype: DType, shape: &[usize], form: Form, first: u8) -> Self {
        let len = shape.iter().product::<usize>() * dtype.size();
        let bytes = (0..len)
            .map(|i| first.wrapping_add((i * 7 + i / 256) as u8))
            .collect();
        Leaf {
            dtype,
            shape: shape.to_vec(),
            bytes,
            form,
        }
    }
}

/// A map node of named children.
pub fn map<const N: usize>(children: [(&str, Node); N]) -> Node {
    Node::Map(children.map(|(name, node)| (name.to_owned(), node)).into())
}

/// A leaf node as [`Leaf::counting`] makes it.
pub fn leaf(dtype: DType, shape: &[usize], form: Form, first: u8) -> Node {
    Node::Leaf(Leaf::counting(dtype, shape, form, first))
}

/// A tree with every structure that a file can have.
pub fn everything() -> Node {
    map([
        (
            "model",
            map([
                ("embed", leaf(DType::F32, &[5, 8], Form::Chunks(12), 1)),
                (
                    "layers",
                    map([
                        (
                            "0",
                            map([("kernel", leaf(DType::BF16, &[4, 40], Form::Array, 2))]),
                        ),
                        (
                            "1",
                            map([("kernel", leaf(DType::F16, &[2, 3], Form::OldArray, 3))]),
                        ),
                    ]),
                ),
                ("nothing", Node::Map(Vec::new())),
            ]),
        ),
        ("norm/weight", leaf(DType::F32, &[], Form::Array, 4)),
        ("scalar", leaf(DType::BF16, &[], Form::Scalar, 5)),
        ("empty", leaf(DType::F16, &[3, 0], Form::Array, 6)),
    ])
}

/// Every leaf of a tree with its joined name.
pub fn flatten(node: &Node) -> Vec<(String, Leaf)> {
    match node {
        Node::Leaf(leaf) => vec![(String::new(), leaf.clone())],
        Node::Map(children) => children
            .iter()
            .flat_map(|(key, child)| {
                flatten(child)
                    .into_iter()
                    .map(move |(name, leaf)| match name.as_str() {
                        "" => (key.clone(), leaf),
                        _ => (format!("{key}/{name}"), leaf),
                    })
            })
            .collect(),
    }
}

/// The file that holds a tree.
pub fn encode(node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, node);
    out
}

fn write(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::Map(children) => {
            map_len(out, children.len());
            for (name, child) in children {
                string(out, name);
                write(out, child);
            }
        }
        Node::Leaf(leaf) => match leaf.form {
            Form::Chunks(elements) => chunks(out, leaf, elements),
            form => {
                let content = triple(&leaf.shape, leaf.dtype.numpy_name(), &leaf.bytes, form);
                extension(out, if form == Form::Scalar { 3 } else { 1 }, &content);
            }
        },
    }
}

fn chunks(out: &mut Vec<u8>, leaf: &Leaf, elements: usize) {
    map_len(out, 3);
    string(out, "__msgpack_chunked_array__");
    encode::write_bool(out, true).unwrap();
    string(out, "shape");
    map_len(out, leaf.shape.len());
    for (i, size) in leaf.shape.iter().enumerate() {
        string(out, &i.to_string());
        number(out, *size);
    }
    string(out, "chunks");
    let size = leaf.dtype.size();
    let runs: Vec<&[u8]> = leaf.bytes.chunks(elements * size).collect();
    map_len(out, runs.len());
    for (i, run) in runs.into_iter().enumerate() {
        string(out, &i.to_string());
        let content = triple(
            &[run.len() / size],
            leaf.dtype.numpy_name(),
            run,
            Form::Array,
        );
        extension(out, 1, &content);
    }
}

/// What is in an extension: shape, dtype and bytes.
pub fn triple(shape: &[usize], dtype: &str, bytes: &[u8], form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    encode::write_array_len(&mut out, 3).unwrap();
    encode::write_array_len(&mut out, shape.len() as u32).unwrap();
    for size in shape {
        number(&mut out, *size);
    }
    string(&mut out, dtype);
    if form == Form::OldArray {
        encode::write_str_len(&mut out, bytes.len() as u32).unwrap();
        out.extend(bytes);
    } else {
        encode::write_bin(&mut out, bytes).unwrap();
    }
    out
}

/// Appends an extension.
pub fn extension(out: &mut Vec<u8>, code: i8, content: &[u8]) {
    encode::write_ext_meta(out, content.len() as u32, code).unwrap();
    out.extend(content);
}

/// Appends the head of a map.
pub fn map_len(out: &mut Vec<u8>, len: usize) {
    encode::write_map_len(out, len as u32).unwrap();
}

/// Appends a string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    encode::write_str(out, text).unwrap();
}

/// Appends a whole number.
pub fn number(out: &mut Vec<u8>, value: usize) {
    encode::write_uint(out, value as u64).unwrap();
}

/// Opens bytes in memory.
pub fn open(bytes: &[u8]) -> Result<Checkpoint, Error> {
    Checkpoint::from_msgpack(Path::new(FILE), bytes.to_vec())
}

/// The message of bytes that must be refused: one line that names the file.
#[track_caller]
pub fn refused(bytes: &[u8]) -> String {
    let message = open(bytes)
        .expect_err("these bytes are malformed")
        .to_string();
    assert!(message.starts_with(FILE), "names no file: {message}");
    assert!(!message.contains('\n'), "more than a line: {message}");
    message
}
