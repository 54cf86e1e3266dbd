//! What can be wrong inside a msgpack file.

use std::io;

use super::{MAX_DEPTH, MAX_NAME, MAX_RANK};

/// How a msgpack file differs from what Flax writes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MsgpackProblem {
    /// The bytes end too early, in the file or in the extension that holds an array.
    #[error("cut short: {needed} bytes needed, {left} left")]
    Truncated {
        /// How many bytes should follow.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// The system failed to read the file.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The file has an optimiser's state beside the parameters.
    #[error("this is a training state and not a model; save its parameters alone")]
    TrainingState,
    /// A value is of another kind than the one that must be there.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// The kind that must be here.
        expected: &'static str,
        /// The kind that is.
        found: &'static str,
    },
    /// A name is not UTF-8.
    #[error("a name is not valid UTF-8")]
    NameNotUtf8,
    /// A name, with those of its groups, is longer than any model's.
    #[error("a name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// All joined names together are longer than the file: long names of groups, repeated for each
    /// of many small tensors.
    #[error("the names take more than the file's own size")]
    NamesTooLarge,
    /// Maps within maps, deeper than any model's.
    #[error("maps are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// An extension of a type that Flax does not have.
    #[error("extension type {code} is unknown (1: array, 3: scalar)")]
    UnknownExtension {
        /// The type.
        code: i8,
    },
    /// A complex number, which no parameter of a Gemma is.
    #[error("a complex number (extension type 2) is not supported")]
    Complex,
    /// An array of a dtype that cannot be read.
    #[error("unknown dtype {found:?} (known: float64, float32, float16, bfloat16)")]
    UnknownDType {
        /// The dtype's name.
        found: String,
    },
    /// More dimensions than numpy has.
    #[error("{found} dimensions, more than {MAX_RANK}")]
    TooManyDimensions {
        /// The number of dimensions.
        found: u32,
    },
    /// A shape whose bytes cannot be counted.
    #[error("shape {shape:?} is too large")]
    ShapeTooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// The bytes are not as many as shape and dtype say.
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}")]
    WrongLength {
        /// The shape.
        shape: Vec<usize>,
        /// The dtype's name.
        dtype: &'static str,
        /// How many bytes these need.
        expected: usize,
        /// How many bytes there are.
        found: usize,
    },
    /// A scalar extension that holds an array.
    #[error("a scalar (extension type 3) has shape {shape:?}")]
    ScalarWithShape {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Bytes after the end of what an extension or the file should contain.
    #[error("{count} bytes too many after {after}")]
    TrailingBytes {
        /// How many.
        count: u64,
        /// What they follow.
        after: &'static str,
    },
    /// The mark of a chunked array is not its map's first key, or is not `true`.
    #[error("the map of a chunked array must begin with its mark, set to true")]
    MisplacedChunkMark,
    /// The map of a chunked array has other keys than its mark, `shape` and `chunks`.
    #[error("the map of a chunked array must have exactly its mark, \"shape\" and \"chunks\"")]
    ChunkKeys,
    /// The parts of a chunked array are not numbered 0, 1, 2, …
    #[error("the {what} of a chunked array must be numbered from 0, each once")]
    ChunkNumbers {
        /// Which parts: `shape` or `chunks`.
        what: &'static str,
    },
    /// A chunk does not have exactly one dimension.
    #[error("chunk {chunk} has shape {shape:?}, expected one dimension")]
    ChunkShape {
        /// The chunk's number.
        chunk: usize,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The chunks have different dtypes.
    #[error("chunk {chunk} is {found}, chunk 0 is {expected}")]
    ChunkDType {
        /// The chunk's number.
        chunk: usize,
        /// Its dtype's name.
        found: &'static str,
        /// The first chunk's dtype's name.
        expected: &'static str,
    },
}
