//! The files of the cache.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Key;
use crate::leftovers;
use crate::trusted::{self, Distrust};
use crate::whole_file::{Mode, UNFINISHED, WholeFile};

const MAGIC: &[u8] = b"gemma-xla cache entry 1\n";
const EXTENSION: &str = "program";

/// A folder of entries.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    max_bytes: u64,
}

impl Folder {
    /// A folder, rid of what killed processes have left in it.
    pub fn new(path: PathBuf, max_bytes: u64) -> Self {
        leftovers::sweep(&path, |name| name.starts_with(UNFINISHED));
        Self { path, max_bytes }
    }

    /// The path of a key's entry, whether or not it exists.
    pub fn entry(&self, key: &Key) -> PathBuf {
        self.path.join(format!("{key}.{EXTENSION}"))
    }

    /// The entry of a key, if there is one. Its time of modification is set to now.
    pub fn read(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.entry(key);
        match self.try_read(&path, key) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    "compile cache: {}: {error}; compiling it again",
                    path.display()
                );
                None
            }
        }
    }

    fn try_read(&self, path: &Path, key: &Key) -> io::Result<Vec<u8>> {
        let mut file = trusted::open(path).map_err(|distrust| match distrust {
            Distrust::Io { source, .. } => source,
            distrust => io::Error::other(distrust),
        })?;
        let length = file.metadata()?.len();
        if length > self.max_bytes {
            return Err(io::Error::other("larger than the whole cache may be"));
        }
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(length)
            .read_to_end(&mut bytes)?;
        let header = [MAGIC, key.as_bytes()].concat();
        if !bytes.starts_with(&header) {
            return Err(io::Error::other("not the entry of its name"));
        }
        bytes.drain(..header.len());
        // In a read-only folder entries keep their age, and are not removed either.
        let _ = file.set_modified(SystemTime::now());
        Ok(bytes)
    }

    /// Writes an entry, or warns that it cannot be written.
    pub fn write(&self, key: &Key, bytes: &[u8]) {
        let written = self.try_write(key, bytes).and_then(|()| self.make_room());
        if let Err(error) = written {
            tracing::warn!(
                "compile cache: {}: {error}; compiled programs are not kept",
                self.path.display()
            );
        }
    }

    fn try_write(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        // Entries are machine code that is run: no other user may write here.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)?;
        // The folder may have been there before: nothing would be read from it.
        trusted::check_folder(&self.path).map_err(io::Error::other)?;
        // Not waited for until it is on the disk: its checksum would show a file that a power cut
        // left without its contents.
        let mut file = WholeFile::create(&self.entry(key), Mode::Exactly(0o600), false)?;
        file.write_all(MAGIC)?;
        file.write_all(key.as_bytes())?;
        file.write_all(bytes)?;
        // No sync: the checksum detects a file that a power failure left incomplete.
        file.commit()
    }

    /// Removes the least recently used entries until the rest is within bounds.
    fn make_room(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // Other processes remove entries too.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let used = metadata.modified()?;
            let path = entry.path();
            if path.extension().is_some_and(|e| e == EXTENSION) {
                entries.push((used, metadata.len(), path));
            }
        }
        entries.sort_by_key(|(used, _, _)| *used);
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in &entries {
            if total <= self.max_bytes {
                break;
            }
            remove(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

/// Removes a file that another process may remove at the same time.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
