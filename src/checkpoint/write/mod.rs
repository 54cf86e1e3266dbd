//! Writes checkpoints, tensor by tensor: only one part of one tensor is in memory, however large
//! the model.
//!
//! Each format has a file here. All of them take the same list: tensors with the names and layouts
//! that they are written in.

mod companions;
mod error;
mod msgpack;
mod npz;
mod safetensors;
mod shards;
mod staging;

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use error::WriteError;
pub use staging::Staging;

use super::{Checkpoint, NameTable, Tensor, cast};
use crate::dtype::DType;

/// Bytes of a tensor that are read at a time.
const SLAB_BYTES: usize = 1 << 26;

/// A format that checkpoints are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WriteFormat {
    /// msgpack as Flax writes it, in shards where it is large, with Flax's names and layouts.
    Msgpack,
    /// One npz file, uncompressed, with Flax's names, joined by slashes, and layouts.
    Npz,
    /// safetensors, in shards where it is large, with the names and layouts of Transformers'
    /// PyTorch models.
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
    /// The format of the files.
    pub format: WriteFormat,
    /// The dtype that tensors are cast to; with none, each keeps its own.
    pub dtype: Option<DType>,
    /// The most bytes of tensors in a shard, where the format has shards. A larger tensor has a
    /// shard of its own.
    pub max_shard_bytes: u64,
}

/// Called with the bytes of tensors written since the last call, in the dtype that they are written
/// in. It can stop the writing.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A tensor as it will be written.
#[derive(Clone, Debug)]
struct Item {
    name: String,
    tensor: Tensor,
    dtype: DType,
    /// How many of its values are finite as they are stored and infinite as they are written.
    overflowed: Cell<u64>,
}

/// What was written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Written {
    /// The files with tensors.
    pub files: Vec<PathBuf>,
    /// The tensors with values that overflowed the dtype that they were cast to, by name, with the
    /// number of these values; the tensor with most comes first.
    pub overflowed: Vec<(String, u64)>,
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

/// Writes the tensors of `checkpoint` into files in `dir`, which has none of their names.
///
/// # Errors
/// Where a tensor cannot be read or a file cannot be written, where a tensor has no name in the
/// format, and where `progress` stops it.
pub fn write(
    checkpoint: &Checkpoint,
    dir: &Path,
    options: &WriteOptions,
    progress: Progress,
) -> Result<Written, WriteError> {
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
            overflowed: Cell::new(0),
        });
    }
    items.sort_by(|a, b| a.path().cmp(b.path()));
    let max_bytes = options.max_shard_bytes;
    let files = match options.format {
        WriteFormat::Msgpack => msgpack::write(dir, &items, max_bytes, progress),
        WriteFormat::Npz => npz::write(dir, &items, progress),
        WriteFormat::Safetensors => safetensors::write(dir, &items, max_bytes, progress),
    }?;
    let mut overflowed: Vec<(String, u64)> = items
        .into_iter()
        .map(|item| (item.name, item.overflowed.get()))
        .filter(|(_, count)| *count > 0)
        .collect();
    overflowed.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(Written { files, overflowed })
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

/// Passes the bytes of a tensor to `sink`, a part at a time.
fn stream(
    item: &Item,
    progress: Progress,
    mut sink: impl FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut bytes = Vec::new();
    for slab in item.tensor.slabs(SLAB_BYTES / item.dtype.size()) {
        bytes.resize(slab.byte_len() / slab.dtype().size() * item.dtype.size(), 0);
        slab.read_into(item.dtype, &mut bytes)?;
        let overflowed = item.overflowed.get() + overflowed(&slab, item.dtype, &bytes)?;
        item.overflowed.set(overflowed);
        sink(&bytes)?;
        if progress(bytes.len() as u64).is_break() {
            return Err(WriteError::Interrupted);
        }
    }
    Ok(())
}

/// How many values of a slab became infinite when they were cast to `dtype`, which gave `bytes`.
fn overflowed(slab: &Tensor, dtype: DType, bytes: &[u8]) -> Result<u64, WriteError> {
    let found = cast::infinities(dtype, bytes);
    if dtype == slab.dtype() || found == 0 {
        return Ok(0);
    }
    // Rare enough to be read again: some may be stored as infinities.
    let mut stored = vec![0; slab.byte_len()];
    slab.read_at(0, &mut stored)?;
    Ok(found.saturating_sub(cast::infinities(slab.dtype(), &stored)))
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

    /// Returns the file's path once all of it is on the disk.
    fn finish(mut self) -> Result<PathBuf, WriteError> {
        let done = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        done.map_err(|source| self.failed(source))?;
        Ok(self.path)
    }
}
