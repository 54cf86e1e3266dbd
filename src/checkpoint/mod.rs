//! Checkpoints: parameters by name, with shape and dtype, as views whose bytes are read where they
//! are needed.
//!
//! Opening a checkpoint reads names, shapes and positions, and no tensor bytes. [`Tensor::read_at`]
//! then reads any range of a tensor straight into the caller's memory, from any number of threads.
//! Files are read by position and not mapped: a mapped page counts towards the process's resident
//! memory, and a mapped file that shrinks ends the process with a signal, while here it is an error
//! that names file and tensor.
//!
//! A checkpoint has the names and layouts of its files, until [`Checkpoint::canonical`] gives it
//! Flax's, as views of what is stored.
//!
//! Nothing that a file contains can cause a panic, and what is kept of a file is bounded by its
//! size.

mod cast;
mod compare;
mod contents;
mod element;
mod error;
mod index;
mod layout;
mod msgpack;
mod names;
mod npz;
mod open;
mod orbax;
mod positional;
mod read;
mod safetensors;
mod tensor;
mod transform;
pub mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::orbax::maxtext::{self, Sizes};
pub use crate::input_file::Impostor;
pub use crate::naming::{NameTable, Naming};
pub use compare::Comparison;
pub use error::Error;
pub use index::shards;
pub use msgpack::MsgpackProblem;
pub use npz::NpzProblem;
pub use orbax::OrbaxProblem;
pub use positional::ReadAt;
pub use safetensors::SafetensorsProblem;
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

/// The format of a checkpoint's files.
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

#[derive(Clone)]
struct Inner {
    path: PathBuf,
    format: Format,
    naming: Naming,
    names: NameTable,
    files: Vec<PathBuf>,
    tensors: BTreeMap<Arc<str>, Tensor>,
    left_out: Vec<String>,
    other_parts: Vec<String>,
}

impl Checkpoint {
    /// What was opened: the file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The format of its files.
    pub fn format(&self) -> Format {
        self.inner.format
    }

    /// Whose names and layouts its tensors are stored in.
    pub fn naming(&self) -> Naming {
        self.inner.naming
    }

    /// The same tensors by Flax's names and in Flax's layouts, by the table of `tables` that names
    /// most of them (the first of equals). Tensors that it does not name stay as they are; those of
    /// other parts of a multimodal model than its text model are left out.
    ///
    /// # Errors
    /// [`Error::ForeignShape`] where a named tensor has other axes than the table says,
    /// [`Error::Duplicate`] where two tensors have one name.
    pub fn canonical(&self, tables: &[NameTable]) -> Result<Self> {
        let stored = &self.inner.tensors;
        let undone = maxtext::canonical(stored, Sizes::default())?;
        let layers = match undone {
            Some(_) => None,
            None => names::unstacked(stored, tables)?,
        };
        let stored = layers.as_ref().unwrap_or(stored);
        let Some(table) = names::best(undone.as_ref().unwrap_or(stored), tables) else {
            return Ok(self.clone());
        };
        let names::Canonical {
            mut tensors,
            naming,
            other_parts,
        } = match undone {
            Some(tensors) => names::Canonical {
                tensors,
                naming: Naming::MaxText,
                other_parts: Vec::new(),
            },
            None => names::canonical(stored, table)?,
        };
        cut_embedding(&mut tensors, table, naming, Sizes::default())?;
        Ok(Checkpoint {
            inner: Arc::new(Inner {
                naming,
                names: table.clone(),
                tensors,
                other_parts,
                ..Inner::clone(&self.inner)
            }),
        })
    }

    /// The same checkpoint for a model of this many tokens. DeepMind's and MaxText's embeddings of
    /// Gemma 1 and 2 have up to 128 more rows, which are left out.
    #[must_use]
    pub fn for_vocabulary(&self, tokens: usize) -> Self {
        let mut inner = Inner::clone(&self.inner);
        let sizes = Sizes {
            vocabulary: Some(tokens),
        };
        if cut_embedding(&mut inner.tensors, &inner.names, inner.naming, sizes).is_err() {
            return self.clone();
        }
        Checkpoint {
            inner: Arc::new(inner),
        }
    }

    /// The same checkpoint without tensors of these names, which are counted as left out.
    #[must_use]
    pub fn without(&self, names: &[String]) -> Self {
        let mut inner = Inner::clone(&self.inner);
        for name in names {
            if let Some((name, _)) = inner.tensors.remove_entry(name.as_str()) {
                inner.left_out.push(name.to_string());
            }
        }
        Checkpoint {
            inner: Arc::new(inner),
        }
    }

    /// The names of its parameters.
    pub(crate) fn name_table(&self) -> &NameTable {
        &self.inner.names
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
                names: vec![name.to_owned()],
            });
        };
        if tensor.shape() != shape {
            return Err(compare::wrong_shape(tensor, shape));
        }
        Ok(tensor)
    }

    /// The stored names of the tensors that are not parameters and are not read: integers, and
    /// buffers that are computed from the configuration.
    pub fn left_out(&self) -> &[String] {
        &self.inner.left_out
    }

    /// The parts of a multimodal model that are left out, each with the number of its tensors.
    pub fn other_parts(&self) -> &[String] {
        &self.inner.other_parts
    }

    /// The bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().map(|tensor| tensor.byte_len() as u64).sum()
    }
}

/// Leaves out the rows of the embedding that only pad it.
fn cut_embedding(
    tensors: &mut BTreeMap<Arc<str>, Tensor>,
    table: &NameTable,
    naming: Naming,
    sizes: Sizes,
) -> Result<()> {
    let padded = matches!(naming, Naming::DeepMind | Naming::MaxText);
    if let Some((embedding, _)) = table.head().filter(|_| padded)
        && let Some(embedding) = tensors.get_mut(embedding)
    {
        *embedding = maxtext::without_padding(embedding, sizes)?;
    }
    Ok(())
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
