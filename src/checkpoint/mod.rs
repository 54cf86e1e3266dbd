//! Checkpoints: parameters by name, with shape and dtype, as views whose bytes are read where they are wanted.
//!
//! Opening a checkpoint reads names, shapes and positions, and no tensor bytes. [`Tensor::read_at`] then reads any range of a
//! tensor straight into the caller's memory, from any number of threads. Files are read by position and not mapped: a mapped
//! page counts towards the process's resident memory, and a mapped file that shrinks ends the process with a signal, while
//! here it is an error that names file and tensor.
//!
//! Whatever form the files have, and whoever's names and layouts: what is given are Flax's, as views of what is stored.
//!
//! Nothing that a file holds can panic, and what is kept of a file is bounded by the file's own size.

mod cast;
mod error;
mod foreign;
mod index;
mod layout;
mod msgpack;
mod npz;
mod open;
mod orbax;
mod read;
mod safetensors;
mod source;
mod tensor;
mod transform;
pub mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::Error;
pub use foreign::Naming;
pub use index::shards;
pub use msgpack::Problem;
pub use npz::NpzProblem;
pub use orbax::OrbaxProblem;
pub use safetensors::SafetensorsProblem;
pub use source::ReadAt;
pub use tensor::Tensor;

#[cfg(target_endian = "big")]
compile_error!(
    "tensor bytes are little endian in files and on devices; no big-endian host is supported"
);

/// A result whose error says what is wrong with a checkpoint.
pub type Result<T> = std::result::Result<T, Error>;

/// The file that Flax saves a model's parameters to.
pub const FLAX_FILE: &str = "flax_model.msgpack";
/// The index of a Flax model that was saved in shards.
pub const FLAX_INDEX_FILE: &str = "flax_model.msgpack.index.json";
/// The names of an npz file with a model's parameters, the preferred one first.
pub const NPZ_FILES: [&str; 2] = ["flax_model.npz", "model.npz"];
/// The safetensors file of a model.
pub const SAFETENSORS_FILE: &str = "model.safetensors";
/// The index of a model that was saved as safetensors in shards.
pub const SAFETENSORS_INDEX_FILE: &str = "model.safetensors.index.json";

/// The form that a checkpoint's files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// msgpack as `flax.serialization` writes it, in one file.
    FlaxMsgpack,
    /// The same in several files with an index.
    FlaxMsgpackSharded,
    /// A zip archive of npy files, as `numpy.savez` writes it.
    Npz,
    /// safetensors in one file.
    Safetensors,
    /// The same in several files with an index.
    SafetensorsSharded,
    /// A tree that Orbax saved as an OCDBT database.
    OrbaxOcdbt,
    /// A tree that Orbax saved with a folder for each array.
    OrbaxFolders,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::FlaxMsgpack => "Flax msgpack",
            Format::FlaxMsgpackSharded => "Flax msgpack in shards",
            Format::Npz => "npz",
            Format::Safetensors => "safetensors",
            Format::SafetensorsSharded => "safetensors in shards",
            Format::OrbaxOcdbt => "Orbax (OCDBT)",
            Format::OrbaxFolders => "Orbax (a folder for each array)",
        })
    }
}

/// An opened checkpoint. Cloning it is cheap; threads may share it.
#[derive(Clone)]
pub struct Checkpoint {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    format: Format,
    naming: Naming,
    files: Vec<PathBuf>,
    tensors: BTreeMap<Arc<str>, Tensor>,
}

impl Checkpoint {
    /// What was opened: the file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The form of its files.
    pub fn format(&self) -> Format {
        self.inner.format
    }

    /// Whose names and layouts its tensors are stored in.
    pub fn naming(&self) -> Naming {
        self.inner.naming
    }

    /// The files with tensors, by name.
    pub fn files(&self) -> &[PathBuf] {
        &self.inner.files
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.inner.tensors.values()
    }

    /// The names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.inner.tensors.keys().map(Arc::as_ref)
    }

    /// The tensor with this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.inner.tensors.get(name)
    }

    /// The tensor with this name and shape.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::WrongShape`].
    pub fn require(&self, name: &str, shape: &[usize]) -> Result<&Tensor> {
        let Some(tensor) = self.get(name) else {
            return Err(Error::MissingTensor {
                file: self.path().to_path_buf(),
                tensor: name.to_owned(),
                shape: shape.to_vec(),
                others: 0,
            });
        };
        if tensor.shape() != shape {
            return Err(Error::WrongShape {
                file: tensor.file().to_path_buf(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape().to_vec(),
            });
        }
        Ok(tensor)
    }

    /// The bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.byte_len() as u64).sum()
    }

    /// Checks that the checkpoint has exactly these tensors, given by name and shape.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`] or [`Error::LeftOver`], the first that applies in this order.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let mut missing = expected.iter().filter(|(name, _)| self.get(name).is_none());
        if let Some((name, shape)) = missing.next() {
            return Err(Error::MissingTensor {
                file: self.path().to_path_buf(),
                tensor: name.clone(),
                shape: shape.clone(),
                others: missing.count(),
            });
        }
        let mut left_over = self.inner.tensors.clone();
        for (name, shape) in expected {
            self.require(name, shape)?;
            left_over.remove(name.as_str());
        }
        if let Some((name, tensor)) = left_over.first_key_value() {
            return Err(Error::LeftOver {
                file: tensor.file().to_path_buf(),
                tensor: name.to_string(),
                shape: tensor.shape().to_vec(),
                others: left_over.len() - 1,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.inner.path)
            .field("format", &self.inner.format)
            .field("tensors", &self.inner.tensors.len())
            .finish()
    }
}
