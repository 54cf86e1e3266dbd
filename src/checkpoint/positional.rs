//! Sources of bytes: anything that can be read at a position.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a known length that several threads can read at once, each at its own position.
pub trait ReadAt: Send + Sync {
    /// The number of bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the bytes end before `buf` is full, or the system's
    /// error.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file opened for positional reads, with the size that it had then.
pub(super) struct OpenFile {
    file: File,
    size: u64,
}

impl OpenFile {
    /// Opens a regular file, following links: the Hub's cache consists of them.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Asked of the path first: opening a pipe would wait for its writer.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(OpenFile { file, size })
    }

    /// A file that is open, of this size.
    pub(super) fn new(file: File, size: u64) -> Self {
        OpenFile { file, size }
    }
}

impl ReadAt for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }
}
