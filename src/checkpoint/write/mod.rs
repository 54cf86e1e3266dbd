//! Writes checkpoints, tensor by tensor: what is held in memory is one part of one tensor, however large the model.
//!
//! Each form of files is a file here. All of them take the same list, tensors with the names and layouts that they shall have.

mod error;
mod msgpack;
mod npz;
mod safetensors;
mod shards;
mod staging;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use error::WriteError;
pub use staging::Staging;

use super::{Checkpoint, NameTable, Tensor};
use crate::dtype::DType;

/// Bytes of a tensor that are read before they are written.
const SLAB_BYTES: usize = 1 << 26;

/// A form that checkpoints are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WriteFormat {
    /// msgpack as Flax writes it, in shards where it is large, with Flax's names and layouts.
    Msgpack,
    /// One npz file, uncompressed, with Flax's names, joined by slashes, and layouts.
    Npz,
    /// safetensors, in shards where it is large, with the names and layouts of Transformers' PyTorch models.
    Safetensors,
}

impl fmt::Display for WriteFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteFormat::Msgpack => "msgpack",
            WriteFormat::Npz => "npz",
            WriteFormat::Safetensors => "safetensors",
        })
    }
}

/// What is written, and how.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The form of the files.
    pub format: WriteFormat,
    /// The dtype that tensors are cast to; none leaves each its own.
    pub dtype: Option<DType>,
    /// The most bytes of tensors in a shard, where the form has shards. A larger tensor has a shard of its own.
    pub max_shard_bytes: u64,
}

/// Told the bytes of tensors that have been written since it was last told, in the dtype that they are written in. It can stop
/// the writing.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A tensor as it shall be written.
#[derive(Clone, Debug)]
struct Item {
    name: String,
    tensor: Tensor,
    dtype: DType,
}

impl Item {
    fn byte_len(&self) -> u64 {
        (self.tensor.byte_len() / self.tensor.dtype().size()) as u64 * self.dtype.size() as u64
    }

    /// The parts of the name, by which Flax orders a tree.
    fn path(&self) -> impl Iterator<Item = &str> {
        self.name.split('/')
    }
}

/// Writes the tensors of `checkpoint` into files in `dir`, which has none of their names. Gives the files.
///
/// # Errors
/// Where a tensor cannot be read or a file not be written, where a tensor has no name in the form, and where `progress` stops it.
pub fn write(
    checkpoint: &Checkpoint,
    dir: &Path,
    options: &WriteOptions,
    progress: Progress,
) -> Result<Vec<PathBuf>, WriteError> {
    let mut items = Vec::new();
    for tensor in checkpoint.tensors() {
        let (name, tensor) = match options.format {
            WriteFormat::Safetensors => pytorch(checkpoint.name_table(), tensor)?,
            WriteFormat::Msgpack | WriteFormat::Npz => (tensor.name().to_owned(), tensor.clone()),
        };
        let dtype = options.dtype.unwrap_or(tensor.dtype());
        items.push(Item {
            name,
            tensor,
            dtype,
        });
    }
    items.sort_by(|a, b| a.path().cmp(b.path()));
    match options.format {
        WriteFormat::Msgpack => msgpack::write(dir, &items, options.max_shard_bytes, progress),
        WriteFormat::Npz => npz::write(dir, &items, progress),
        WriteFormat::Safetensors => {
            safetensors::write(dir, &items, options.max_shard_bytes, progress)
        }
    }
}

/// A tensor by PyTorch's name and in its layout.
fn pytorch(names: &NameTable, tensor: &Tensor) -> Result<(String, Tensor), WriteError> {
    let (name, transposed) =
        names
            .pytorch(tensor.name())
            .ok_or_else(|| WriteError::NoPyTorchName {
                file: tensor.file().to_path_buf(),
                tensor: tensor.name().to_owned(),
            })?;
    let tensor = match transposed {
        true => tensor.transposed(),
        false => tensor.clone(),
    };
    Ok((name, tensor))
}

/// Gives the bytes of a tensor to `sink`, a part at a time.
fn stream(
    item: &Item,
    progress: Progress,
    mut sink: impl FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut bytes = Vec::new();
    for slab in item.tensor.slabs(SLAB_BYTES / item.dtype.size()) {
        bytes.resize(slab.byte_len() / slab.dtype().size() * item.dtype.size(), 0);
        slab.read_into(item.dtype, &mut bytes)?;
        sink(&bytes)?;
        if progress(bytes.len() as u64).is_break() {
            return Err(WriteError::Interrupted);
        }
    }
    Ok(())
}

/// A new file that is being written.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    fn create(dir: &Path, name: &str) -> Result<Self, WriteError> {
        let path = dir.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Output {
                path,
                file: BufWriter::new(file),
            }),
            Err(source) => Err(WriteError::Write { file: path, source }),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> WriteError {
        WriteError::Write {
            file: self.path.clone(),
            source,
        }
    }

    /// Gives the file's path once all of it is on the disk.
    fn finish(mut self) -> Result<PathBuf, WriteError> {
        let done = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        done.map_err(|source| self.failed(source))?;
        Ok(self.path)
    }
}
