//! What can go wrong when a checkpoint is written.

use std::io;
use std::path::PathBuf;

use crate::checkpoint;

/// Why a checkpoint could not be written. Each message is one line that names the file and, where
/// there is one, the tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A tensor cannot be read.
    #[error(transparent)]
    Read(#[from] checkpoint::Error),
    /// A file cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A tensor for which Transformers' PyTorch models have no name.
    #[error("{}: tensor {tensor:?} has no name in PyTorch's models", file.display())]
    NoPyTorchName {
        /// The file with the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A name that is both a tensor's and a group's, which nested maps cannot represent.
    #[error("{}: {name:?} is a tensor as well as a group of tensors", file.display())]
    Conflict {
        /// The file that was to be written.
        file: PathBuf,
        /// The name.
        name: String,
    },
    /// The destination exists.
    #[error("{}: exists already", destination.display())]
    Exists {
        /// The destination.
        destination: PathBuf,
    },
    /// The destination has something that is not part of a checkpoint, and so is not replaced.
    #[error(
        "{}: not replaced: it has {other:?}, which is not part of a checkpoint",
        destination.display()
    )]
    NotACheckpoint {
        /// The destination.
        destination: PathBuf,
        /// What it has.
        other: String,
    },
    /// `progress` stopped it.
    #[error("interrupted")]
    Interrupted,
}
