//! What can be wrong with an Orbax checkpoint.

use std::io;

/// Where an Orbax checkpoint departs from what Orbax writes, or holds what is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrbaxProblem {
    /// The system failed to read.
    #[error("{what}: {source}")]
    Io {
        /// What failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A save that was interrupted.
    #[error(
        "an unfinished Orbax save ({why}): its writer was interrupted or is still at work; open a \
         finished step, or save again"
    )]
    Unfinished {
        /// How it shows.
        why: String,
    },
    /// A folder of checkpoints, none of which is preferred.
    #[error("several Orbax checkpoints: {found}; name one of these folders")]
    SeveralItems {
        /// Their names, comma separated.
        found: String,
    },
    /// A manifest or a node does not have the structure of OCDBT.
    #[error("not a valid OCDBT {kind}: {what}")]
    Malformed {
        /// The kind of structure.
        kind: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The checksum of a manifest or a node is not that of its bytes.
    #[error("the OCDBT {kind} is damaged: its CRC-32C is {found:08x}, the file says {stored:08x}")]
    Checksum {
        /// The kind of structure.
        kind: &'static str,
        /// The checksum of the bytes.
        found: u32,
        /// The stored checksum.
        stored: u32,
    },
    /// A structure is larger than any that is read.
    #[error("the {kind} has more than {limit} bytes")]
    TooLarge {
        /// The kind of structure.
        kind: &'static str,
        /// The most bytes that it may have.
        limit: u64,
    },
    /// A range of bytes is not within its file.
    #[error("{len} bytes at {offset} are not within the file's {file_len}")]
    OutOfFile {
        /// Where they begin.
        offset: u64,
        /// How many there are.
        len: u64,
        /// The file's size.
        file_len: u64,
    },
    /// An array's metadata, or the tree's, is not the JSON that it must be.
    #[error("malformed metadata: {what}")]
    Metadata {
        /// What is wrong.
        what: String,
    },
    /// Metadata asks for something that Orbax does not write and that is not read here.
    #[error("{what} {found:?} is not supported (known: {known})")]
    Unsupported {
        /// The kind of setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The supported values.
        known: &'static str,
    },
    /// A shape whose bytes cannot be counted.
    #[error("shape {shape:?} is too large")]
    ShapeTooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// The tree names an array that is not stored.
    #[error("the tree's metadata names this array, and none is stored")]
    MissingArray,
    /// A chunk is not stored although the checkpoint says that every chunk is.
    #[error("chunk {chunk} is missing, and the checkpoint's metadata says that all are stored")]
    MissingChunk {
        /// The chunk's key.
        chunk: String,
    },
    /// A chunk does not decode to its elements.
    #[error("chunk {chunk} is damaged: {what}")]
    Chunk {
        /// The chunk's key.
        chunk: String,
        /// What is wrong.
        what: String,
    },
    /// A checkpoint of Orbax without any array that is read.
    #[error("no arrays of float32, float16 or bfloat16")]
    NoArrays,
}

/// A problem with the file and the array that have it; the array's name is empty where it is no
/// array's.
#[derive(Debug)]
pub(super) struct Fault {
    /// Relative to the item's folder.
    pub(super) file: String,
    pub(super) array: String,
    pub(super) problem: OrbaxProblem,
}

impl OrbaxProblem {
    /// This problem, of the file with this name.
    pub(super) fn of(self, file: &str) -> Fault {
        Fault {
            file: file.to_owned(),
            array: String::new(),
            problem: self,
        }
    }

    /// This problem, of the array with this name in the file with this name.
    pub(super) fn of_array(self, file: &str, array: &str) -> Fault {
        Fault {
            array: array.to_owned(),
            ..self.of(file)
        }
    }
}

/// Failing to read a file.
pub(super) fn unreadable(source: io::Error) -> OrbaxProblem {
    OrbaxProblem::Io {
        what: "cannot be read",
        source,
    }
}
