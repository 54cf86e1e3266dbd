//! A view of one tensor: what it is, and where its bytes lie.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::ReadAt;
use super::{Error, Result};
use crate::dtype::DType;

/// A file of a checkpoint, with its bytes.
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) source: Box<dyn ReadAt>,
}

/// A run of a tensor's bytes that lie together in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first byte's position in the tensor.
    pub(super) start: usize,
    /// The first byte's position in the file.
    pub(super) offset: u64,
    /// The number of bytes.
    pub(super) len: usize,
}

/// What a format's parser finds out about one tensor.
///
/// The parser vouches for it: pieces follow each other without gaps, lie within the file, and add up to the bytes that shape
/// and dtype need, a number that fits `usize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) pieces: Vec<Piece>,
}

/// A view of one tensor of a checkpoint. It holds no tensor bytes, and cloning it is cheap.
#[derive(Clone)]
pub struct Tensor {
    file: Arc<DataFile>,
    entry: Arc<Entry>,
    byte_len: usize,
}

impl Tensor {
    pub(super) fn new(file: Arc<DataFile>, entry: Entry) -> Self {
        let byte_len = entry
            .pieces
            .last()
            .map_or(0, |last| last.start.saturating_add(last.len));
        Tensor {
            file,
            entry: Arc::new(entry),
            byte_len,
        }
    }

    /// The name, joined by slashes: `model/layers/0/self_attn/q_proj/kernel`.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.entry.name)
    }

    /// The element type that it is stored in.
    pub fn dtype(&self) -> DType {
        self.entry.dtype
    }

    /// The dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    /// The number of bytes: the product of the shape times the element's size.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// The file that has the bytes.
    pub fn file(&self) -> &Path {
        &self.file.path
    }

    /// Fills `out` with the tensor's bytes from `byte_offset` on: elements in C order, little endian.
    ///
    /// The bytes go from the file straight into `out`. Any number of threads may read at once.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has not that many bytes; [`Error::Read`] where the file cannot be read, or has
    /// become shorter since it was opened. What `out` then holds is unspecified.
    pub fn read_at(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        if byte_offset
            .checked_add(out.len())
            .is_none_or(|end| end > self.byte_len)
        {
            return Err(Error::OutOfRange {
                file: self.file.path.clone(),
                tensor: self.entry.name.to_string(),
                start: byte_offset,
                len: out.len(),
                byte_len: self.byte_len,
            });
        }
        // Pieces are contiguous and end at `byte_len`, so that no sum here overflows and no difference is negative.
        let pieces = &self.entry.pieces;
        let first = pieces.partition_point(|piece| piece.start + piece.len <= byte_offset);
        let (mut at, mut rest) = (byte_offset, out);
        for piece in pieces.iter().skip(first) {
            if rest.is_empty() {
                break;
            }
            let within = at - piece.start;
            let (now, later) = rest.split_at_mut(rest.len().min(piece.len - within));
            let offset = piece.offset + within as u64;
            self.file
                .source
                .read_exact_at(now, offset)
                .map_err(|source| Error::Read {
                    file: self.file.path.clone(),
                    tensor: self.entry.name.to_string(),
                    offset,
                    source,
                })?;
            at += now.len();
            rest = later;
        }
        Ok(())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("file", &self.file.path)
            .field("entry", &self.entry)
            .finish()
    }
}
