//! The files of a checkpoint: in a folder on disk, or in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::positional::{OpenFile, ReadAt};

/// Files by relative path, with slashes between the parts.
pub(super) trait Folder: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadAt>>;

    /// What is in a folder, by name; the checkpoint's own folder is the empty path.
    fn children(&self, path: &str) -> io::Result<Vec<Child>>;
}

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Child {
    pub(super) name: String,
    pub(super) is_folder: bool,
}

/// A folder on disk.
pub(super) struct Disk(pub(super) PathBuf);

impl Folder for Disk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(OpenFile::open(&self.0.join(path))?))
    }

    fn children(&self, path: &str) -> io::Result<Vec<Child>> {
        let mut children = Vec::new();
        for entry in self.0.join(path).read_dir()? {
            let entry = entry?;
            // Nothing that Orbax writes has a name that is not UTF-8.
            if let Ok(name) = entry.file_name().into_string() {
                let is_folder = entry.path().is_dir();
                children.push(Child { name, is_folder });
            }
        }
        children.sort();
        Ok(children)
    }
}

/// Files in memory.
pub(super) struct Memory(BTreeMap<String, Arc<Vec<u8>>>);

impl Memory {
    pub(super) fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let shared = |(path, bytes)| (path, Arc::new(bytes));
        Memory(files.into_iter().map(shared).collect())
    }
}

impl Folder for Memory {
    fn open(&self, path: &str) -> io::Result<Arc<dyn ReadAt>> {
        match self.0.get(path) {
            Some(bytes) => Ok(Arc::clone(bytes) as Arc<dyn ReadAt>),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn children(&self, path: &str) -> io::Result<Vec<Child>> {
        let mut children = Vec::new();
        for file in self.0.keys() {
            let within = match path {
                "" => Some(file.as_str()),
                _ => file
                    .strip_prefix(path)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(within) = within else { continue };
            let (name, is_folder) = match within.split_once('/') {
                Some((name, _)) => (name, true),
                None => (within, false),
            };
            children.push(Child {
                name: name.to_owned(),
                is_folder,
            });
        }
        children.sort();
        children.dedup();
        Ok(children)
    }
}

/// A path below a folder.
pub(super) fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

/// A part of a file that is known to be within it.
#[derive(Clone)]
pub(super) struct Region {
    pub(super) source: Arc<dyn ReadAt>,
    /// The file's name, for messages.
    pub(super) file: Arc<str>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Region {
    /// The part of this region with these bytes, if there is one.
    pub(super) fn part(&self, offset: u64, len: u64) -> Option<Region> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Region {
            offset: self.offset + offset,
            len,
            ..self.clone()
        })
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(out, self.offset + offset)
    }

    /// All of its bytes, of which there are at most `limit`.
    pub(super) fn bytes(&self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        if self.len > limit {
            return Ok(None);
        }
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Reads a region from its beginning to its end.
pub(super) struct RegionReader {
    region: Region,
    at: u64,
}

impl RegionReader {
    pub(super) fn new(region: Region) -> Self {
        RegionReader { region, at: 0 }
    }

    pub(super) fn left(&self) -> u64 {
        self.region.len - self.at
    }
}

impl io::Read for RegionReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.left().min(buf.len() as u64) as usize;
        let Some(now) = buf.get_mut(..len) else {
            return Ok(0);
        };
        self.region.read(self.at, now)?;
        self.at += len as u64;
        Ok(len)
    }
}
