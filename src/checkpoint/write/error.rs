//! What can go wrong when a checkpoint is written.

use std::io;
use std::path::PathBuf;

use crate::checkpoint;

/// Why a checkpoint could not be written. Each message is one line that names the file and, where there is one, the tensor.
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
    /// A tensor that Transformers' PyTorch models have no name for.
    #[error("{}: tensor {tensor:?} has no name in PyTorch's models", file.display())]
    NoPyTorchName {
        /// The file with the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A name that is a tensor's and that of a group of tensors at once, which nested maps cannot hold.
    #[error("{}: {name:?} is a tensor as well as a group of tensors", file.display())]
    Conflict {
        /// The file that was to be written.
        file: PathBuf,
        /// The name.
        name: String,
    },
    /// The destination is there already.
    #[error("{}: exists already", destination.display())]
    Exists {
        /// The destination.
        destination: PathBuf,
    },
    /// The destination has what is no part of a checkpoint, and so is not replaced.
    #[error("{}: not replaced, for it has {other:?}, which is no part of a checkpoint", destination.display())]
    NotACheckpoint {
        /// The destination.
        destination: PathBuf,
        /// What it has.
        other: String,
    },
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}
