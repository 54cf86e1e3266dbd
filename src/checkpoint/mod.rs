//! Checkpoints: parameters by name, with shape and dtype, as views whose bytes are read where they are wanted.
//!
//! Opening a checkpoint reads names, shapes and positions, and no tensor bytes. [`Tensor::read_at`] then reads any range of a
//! tensor straight into the caller's memory, from any number of threads. Files are read by position and not mapped: a mapped
//! page counts towards the process's resident memory, and a mapped file that shrinks ends the process with a signal, while
//! here it is an error that names file and tensor.
//!
//! Nothing that a file holds can panic, and what is kept of a file is bounded by the file's own size.

mod error;
mod index;
mod msgpack;
mod source;
mod tensor;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::Error;
pub use msgpack::Problem;
use source::OpenFile;
pub use source::ReadAt;
use tensor::DataFile;
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

/// The form that a checkpoint's files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// msgpack as `flax.serialization` writes it, in one file.
    FlaxMsgpack,
    /// The same in several files with an index.
    FlaxMsgpackSharded,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::FlaxMsgpack => "Flax msgpack",
            Format::FlaxMsgpackSharded => "Flax msgpack in shards",
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
    files: Vec<PathBuf>,
    tensors: BTreeMap<Arc<str>, Tensor>,
}

impl Checkpoint {
    /// Opens the weights in a folder: [`FLAX_FILE`], else [`FLAX_INDEX_FILE`] with the shards that it names.
    ///
    /// # Errors
    /// Where there is neither, where a file cannot be read or is malformed, and where index and shards disagree.
    pub fn open(dir: &Path) -> Result<Self> {
        let single = dir.join(FLAX_FILE);
        if exists(&single)? {
            return Self::open_msgpack_file(&single);
        }
        let index = dir.join(FLAX_INDEX_FILE);
        if exists(&index)? {
            return Self::open_index_file(&index);
        }
        Err(Error::NotFound {
            dir: dir.to_path_buf(),
            looked_for: format!("{FLAX_FILE}, {FLAX_INDEX_FILE}"),
        })
    }

    /// Opens one msgpack file, with nested names or joined ones.
    ///
    /// # Errors
    /// Where the file cannot be read, or is malformed.
    pub fn open_msgpack_file(file: &Path) -> Result<Self> {
        let source = OpenFile::open(file).map_err(|source| Error::Open {
            file: file.to_path_buf(),
            source,
        })?;
        Self::from_msgpack(file, source)
    }

    /// Opens msgpack bytes that lie anywhere. `file` is the name that errors and [`Tensor::file`] give them.
    ///
    /// # Errors
    /// Where the bytes cannot be read, or are malformed.
    pub fn from_msgpack(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for tensor in parse_msgpack(file, source)? {
            insert(&mut tensors, tensor)?;
        }
        Ok(Self::new(
            file,
            Format::FlaxMsgpack,
            vec![file.to_path_buf()],
            tensors,
        ))
    }

    /// Opens an index file and the shards that it names, which lie beside it.
    ///
    /// # Errors
    /// Where a file is missing, cannot be read or is malformed; where the index names a shard by anything but a plain file
    /// name; and where index and shards disagree on a tensor.
    pub fn open_index_file(file: &Path) -> Result<Self> {
        let dir = file.parent().unwrap_or(Path::new(""));
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (shard, names) in index::read(file)? {
            let path = dir.join(&shard);
            let source = OpenFile::open(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::MissingShard {
                    file: file.to_path_buf(),
                    tensor: names.first().cloned().unwrap_or_default(),
                    shard: shard.clone(),
                },
                _ => Error::Open {
                    file: path.clone(),
                    source,
                },
            })?;
            let mut found = 0;
            for tensor in parse_msgpack(&path, source)? {
                // The names came out of a sorted map.
                if names
                    .binary_search_by(|name| name.as_str().cmp(tensor.name()))
                    .is_err()
                {
                    return Err(Error::NotInIndex {
                        file: file.to_path_buf(),
                        tensor: tensor.name().to_owned(),
                        shard,
                    });
                }
                insert(&mut tensors, tensor)?;
                found += 1;
            }
            if found < names.len() {
                let missing = names
                    .into_iter()
                    .find(|name| !tensors.contains_key(name.as_str()));
                return Err(Error::NotInShard {
                    file: file.to_path_buf(),
                    tensor: missing.unwrap_or_default(),
                    shard,
                });
            }
            files.push(path);
        }
        Ok(Self::new(file, Format::FlaxMsgpackSharded, files, tensors))
    }

    fn new(
        path: &Path,
        format: Format,
        files: Vec<PathBuf>,
        tensors: BTreeMap<Arc<str>, Tensor>,
    ) -> Self {
        Checkpoint {
            inner: Arc::new(Inner {
                path: path.to_path_buf(),
                format,
                files,
                tensors,
            }),
        }
    }

    /// What was opened: the file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The form of its files.
    pub fn format(&self) -> Format {
        self.inner.format
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

/// Whether there is a file of this name. A folder that cannot be looked into is an error, not an absence.
fn exists(file: &Path) -> Result<bool> {
    file.try_exists().map_err(|source| Error::Open {
        file: file.to_path_buf(),
        source,
    })
}

/// The tensors of one msgpack file, in its order.
fn parse_msgpack(
    file: &Path,
    source: impl ReadAt + 'static,
) -> Result<impl Iterator<Item = Tensor>> {
    let entries = msgpack::parse(&source).map_err(|error| Error::Msgpack {
        file: file.to_path_buf(),
        tensor: error.tensor,
        offset: error.offset,
        problem: error.problem,
    })?;
    let file = Arc::new(DataFile {
        path: file.to_path_buf(),
        source: Box::new(source),
    });
    Ok(entries
        .into_iter()
        .map(move |entry| Tensor::new(Arc::clone(&file), entry)))
}

/// Adds a tensor whose name must be new.
fn insert(tensors: &mut BTreeMap<Arc<str>, Tensor>, tensor: Tensor) -> Result<()> {
    if let Some(first) = tensors.get(tensor.name()) {
        return Err(Error::Duplicate {
            file: tensor.file().to_path_buf(),
            tensor: tensor.name().to_owned(),
            first: first.file().to_path_buf(),
        });
    }
    tensors.insert(tensor.shared_name(), tensor);
    Ok(())
}
