//! What can be wrong with a safetensors file.

use std::io;

use super::{MAX_HEADER, MAX_NAME, MAX_RANK};

/// How a safetensors file differs from the format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsProblem {
    /// The file ends before its header does.
    #[error("cut short: the header needs {needed} bytes, the file has {found}")]
    Truncated {
        /// How many bytes the header should have, with the eight that say so.
        needed: u64,
        /// How many the file has.
        found: u64,
    },
    /// The header is larger than the format allows.
    #[error("the header has {found} bytes, more than {MAX_HEADER}")]
    HeaderTooLarge {
        /// Its size.
        found: u64,
    },
    /// The system failed to read the file.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The header is not JSON with the right keys.
    #[error("the header is malformed: {what}")]
    Header {
        /// Where and how it differs, in one line.
        what: String,
    },
    /// A name is longer than any model's.
    #[error("the name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// Two tensors have the same name.
    #[error("the header has this tensor twice")]
    DuplicateName,
    /// A dtype that cannot be read.
    #[error("unknown dtype {found:?} (known: F64, F32, F16, BF16)")]
    UnknownDType {
        /// The dtype's name.
        found: String,
    },
    /// More dimensions than numpy has.
    #[error("{found} dimensions, more than {MAX_RANK}")]
    TooManyDimensions {
        /// The number of dimensions.
        found: usize,
    },
    /// A shape whose bytes cannot be counted.
    #[error("shape {shape:?} is too large")]
    ShapeTooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// A tensor's bytes begin or end where the file has none.
    #[error("bytes {begin} to {end} are not within the {available} that follow the header")]
    OutOfFile {
        /// The first byte, counted from the header's end.
        begin: u64,
        /// The byte after the last.
        end: u64,
        /// How many bytes there are.
        available: u64,
    },
    /// The bytes are not as many as shape and dtype say.
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}")]
    WrongLength {
        /// The shape.
        shape: Vec<usize>,
        /// The dtype's name.
        dtype: String,
        /// How many bytes these need.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A tensor's bytes overlap those of another, or leave a gap before them.
    #[error("its bytes do not begin where those of the tensor before it end")]
    NotAdjacent,
    /// Bytes after the last tensor.
    #[error("{count} bytes too many after the last tensor")]
    TrailingBytes {
        /// How many.
        count: u64,
    },
}
