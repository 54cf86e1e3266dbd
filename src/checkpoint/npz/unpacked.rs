//! The unpacked members of a large archive, made when the first byte of them is read: who wants the
//! names and shapes alone does not wait for gigabytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use super::archive::{Archive, Member};
use crate::checkpoint::positional::ReadAt;
use crate::checkpoint::tensor::DataFile;

/// Members that are to be unpacked, each with its place among the unpacked bytes, and the number of
/// all of those.
pub(in crate::checkpoint) struct Packed {
    pub(super) members: Vec<(u64, Member)>,
    pub(super) len: u64,
}

/// The bytes that packed members are.
pub(in crate::checkpoint) struct Unpacked {
    archive: Arc<DataFile>,
    packed: Packed,
    /// The temporary file with them, or why there is none.
    file: OnceLock<Result<File, String>>,
}

impl Unpacked {
    /// The members of an archive.
    pub(in crate::checkpoint) fn new(archive: Arc<DataFile>, packed: Packed) -> Self {
        Unpacked {
            archive,
            packed,
            file: OnceLock::new(),
        }
    }

    fn unpack(&self) -> Result<File, String> {
        let archive = Archive::open(&*self.archive.source).map_err(|error| error.to_string())?;
        let unpacked = archive.unpack(&self.packed.members, self.packed.len);
        unpacked.map_err(|error| format!("member {:?}: {}", error.tensor, error.problem))
    }
}

impl ReadAt for Unpacked {
    fn size(&self) -> u64 {
        self.packed.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.file.get_or_init(|| self.unpack()) {
            Ok(file) => file.read_exact_at(buf, offset),
            Err(problem) => Err(io::Error::other(problem.clone())),
        }
    }
}
