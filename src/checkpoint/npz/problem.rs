//! What can be wrong with an npz file.

use std::borrow::Cow;
use std::io;

use super::limits::{MAX_HEADER, MAX_RANK, MAX_RATIO};

/// How an npz file differs from what numpy writes, or which content of it is not supported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpzProblem {
    /// The system failed to read the file, or to write the file that compressed arrays are unpacked
    /// to.
    #[error("{what}: {source}")]
    Io {
        /// What failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The archive does not have the structure of a zip file.
    #[error("not a valid zip archive: {what}")]
    NotZip {
        /// What is missing or wrong.
        what: Cow<'static, str>,
    },
    /// A member that numpy would not have written: its name leads out of the archive's folder, is
    /// not UTF-8, too long or not an array's; or it is a link, or encrypted.
    #[error("{what}")]
    Member {
        /// What is wrong with it.
        what: Cow<'static, str>,
    },
    /// Two members have the same name.
    #[error("the archive has this member twice")]
    DuplicateName,
    /// A member is compressed in a way that numpy does not use.
    #[error("compression method {method} is not supported (0: stored, 8: deflated)")]
    Compression {
        /// The method's number.
        method: u16,
    },
    /// A member's bytes are not within the file.
    #[error("the member's {len} bytes at {offset} are not within the file's {file_len}")]
    OutOfFile {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        len: u64,
        /// The file's size.
        file_len: u64,
    },
    /// A member would unpack to more than its compressed bytes can hold.
    #[error(
        "{compressed} bytes cannot unpack to {size}: deflate compresses by {MAX_RATIO} at most"
    )]
    Bomb {
        /// Its compressed bytes.
        compressed: u64,
        /// The bytes that it claims to unpack to.
        size: u64,
    },
    /// A member's compressed bytes are damaged, or unpack to another number of bytes than the
    /// archive says.
    #[error("the member cannot be unpacked: {what}")]
    Inflate {
        /// What is wrong.
        what: String,
    },
    /// A member is not an npy file.
    #[error("not an npy file: {what}")]
    NotNpy {
        /// What is wrong.
        what: &'static str,
    },
    /// An array's header is longer than any that numpy writes.
    #[error("the header has {found} bytes, more than {MAX_HEADER}")]
    HeaderTooLarge {
        /// Its size.
        found: u64,
    },
    /// An array's header is not the Python dictionary that numpy writes.
    #[error("the header is malformed: {what}")]
    Header {
        /// What is wrong.
        what: &'static str,
    },
    /// An array of Python objects, which only Python's pickle can read, and which could run
    /// anything.
    #[error("an array of Python objects (pickle) is refused")]
    Pickle,
    /// A dtype that cannot be read.
    #[error(
        "unknown dtype {found:?} \
         (known: <f8, <f4, <f2, and |V2 or bfloat16, as numpy writes bfloat16)"
    )]
    UnknownDType {
        /// The dtype as the header has it.
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
    /// The bytes are not as many as shape and dtype say.
    #[error("shape {shape:?} of {dtype} needs {expected} bytes, found {found}")]
    WrongLength {
        /// The shape.
        shape: Vec<usize>,
        /// The dtype's name.
        dtype: &'static str,
        /// How many bytes these need.
        expected: u64,
        /// How many there are.
        found: u64,
    },
}
