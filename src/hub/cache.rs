//! A repository's folder in the cache, as huggingface_hub lays it out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::repo::is_plain_name;
use super::{Error, RepoId, Result};
use crate::input_file;
use crate::whole_file::{Mode, WholeFile};

/// The most bytes of a commit's name in `refs`.
const MAX_REF: u64 = 1 << 12;

/// A repository's folder: `blobs`, `snapshots` and `refs`, and its locks.
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// Keeps other processes, Python's too, from writing a blob until it is dropped or the process
/// ends.
pub(super) struct Lock {
    _file: Option<File>,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &RepoId) -> Self {
        Self {
            folder: cache.join(repo.folder()),
            locks: cache.join(".locks").join(repo.folder()),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the content with this ETag, once it is complete.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The path of the partial content.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The names of a commit's files that are present, without those in folders.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let entries = fs::read_dir(self.snapshot(commit)).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok())
            // The target of a link must exist.
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// The commit that a revision referred to when it was last requested; a commit refers to
    /// itself.
    pub(super) fn commit_of(&self, revision: &str) -> Result<Option<String>> {
        let path = self.folder.join("refs").join(revision);
        let read = match path.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => input_file::read(&path, MAX_REF),
        };
        let text = read.map(|content| String::from_utf8(content.unwrap_or_default()));
        match text.map(|text| text.unwrap_or_default()) {
            Ok(commit) if is_plain_name(commit.trim()) => Ok(Some(commit.trim().to_owned())),
            Ok(_) => Err(Error::io(&path)(io::Error::other(
                "does not hold a commit's name",
            ))),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::IsADirectory
                ) =>
            {
                let is_commit = is_plain_name(revision) && self.snapshot(revision).is_dir();
                Ok(is_commit.then(|| revision.to_owned()))
            }
            Err(e) => Err(Error::io(&path)(e)),
        }
    }

    /// Records the commit of a revision.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit
            || self
                .commit_of(revision)
                .is_ok_and(|known| known.as_deref() == Some(commit))
        {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        replace(&path, |file| io::Write::write_all(file, commit.as_bytes()))
    }

    /// Makes a link to a complete blob in a commit's folder.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.exists() {
            return Ok(());
        }
        let folder = pointer.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // A dangling link.
        if pointer.is_symlink() {
            fs::remove_file(&pointer).map_err(Error::io(&pointer))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let linked = symlink(Path::new(&format!("{up}blobs/{etag}")), &pointer);
        match linked {
            Ok(()) => Ok(()),
            Err(_) if pointer.exists() => Ok(()),
            // Some file systems have no links: Python copies there too.
            Err(_) => {
                let blob = self.blob(etag);
                let mut content = File::open(&blob).map_err(Error::io(&blob))?;
                replace(&pointer, |file| io::copy(&mut content, file).map(drop))
            }
        }
    }

    /// Takes the lock of a blob. `waiting` is called once if another process holds it.
    pub(super) fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<Lock> {
        fs::create_dir_all(&self.locks).map_err(Error::io(&self.locks))?;
        let path = self.locks.join(format!("{etag}.lock"));
        let mut waiting = Some(waiting);
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(Error::io(&path))?;
            let locked = match file.try_lock() {
                Ok(()) => Ok(()),
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock()
                }
                Err(TryLockError::Error(error)) => Err(error),
            };
            match locked {
                Ok(()) if is_removed(&file) => {}
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A file system without locks: contents are checked and renamed atomically, so at
                // worst work is done twice.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Lock { _file: None });
                }
                Err(e) => return Err(Error::io(&path)(e)),
            }
        }
    }
}

/// Whether the lock's previous holder has removed its file: then a lock on it excludes no other
/// process.
fn is_removed(file: &File) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        false
    }
}

/// Writes a small file beside its place and renames it.
fn replace(path: &Path, write: impl FnOnce(&mut WholeFile) -> io::Result<()>) -> Result<()> {
    // Others may read it: the cache may be shared.
    let mut beside =
        WholeFile::create(path, Mode::Exactly(0o644), false).map_err(Error::io(path))?;
    write(&mut beside).map_err(Error::io(path))?;
    beside.commit().map_err(Error::io(path))
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_to: &Path, _at: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, RepoCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), &"org/name".parse().unwrap());
        (folder, cache)
    }

    #[test]
    fn a_blob_is_linked_from_any_depth() {
        let (_folder, cache) = cache();
        fs::create_dir_all(cache.folder().join("blobs")).unwrap();
        fs::write(cache.blob("e1"), "content").unwrap();
        for file in ["config.json", "a/b/c.bin"] {
            cache.link("commit", file, "e1").unwrap();
            cache.link("commit", file, "e1").unwrap();
            assert_eq!(
                fs::read(cache.snapshot("commit").join(file)).unwrap(),
                b"content"
            );
        }
        let link = fs::read_link(cache.snapshot("commit").join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs/e1"));
        assert_eq!(cache.files("commit"), ["config.json"]);
    }

    #[test]
    fn a_link_to_nothing_is_no_file_and_is_replaced() {
        let (_folder, cache) = cache();
        cache.link("commit", "config.json", "gone").unwrap();
        assert_eq!(cache.files("commit"), [""; 0]);
        fs::create_dir_all(cache.folder().join("blobs")).unwrap();
        fs::write(cache.blob("e1"), "content").unwrap();
        cache.link("commit", "config.json", "e1").unwrap();
        assert_eq!(cache.files("commit"), ["config.json"]);
    }

    #[test]
    fn revisions_are_commits_with_slashes_in_their_names_or_not() {
        let (_folder, cache) = cache();
        assert_eq!(cache.commit_of("main").unwrap(), None);
        for revision in ["main", "refs/pr/1"] {
            cache.set_commit(revision, "c0ffee").unwrap();
            cache.set_commit(revision, "c0ffee").unwrap();
            assert_eq!(
                cache.commit_of(revision).unwrap().as_deref(),
                Some("c0ffee")
            );
            let written = fs::read_to_string(cache.folder().join("refs").join(revision));
            assert_eq!(
                written.unwrap(),
                "c0ffee",
                "and nothing behind it, as Python reads it"
            );
        }
        fs::create_dir_all(cache.snapshot("abc123")).unwrap();
        assert_eq!(
            cache.commit_of("abc123").unwrap().as_deref(),
            Some("abc123")
        );
        fs::write(cache.folder().join("refs/main"), "../../elsewhere").unwrap();
        assert!(cache.commit_of("main").is_err());
    }

    #[test]
    fn a_lock_is_for_one() {
        let (_folder, cache) = cache();
        let held = cache.lock("e1", || panic!("nobody has it")).unwrap();
        let (waits, waited) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second =
                scope.spawn(|| cache.lock("e1", move || waits.send(()).unwrap()).map(drop));
            waited.recv().unwrap();
            assert!(!second.is_finished());
            drop(held);
            second.join().unwrap().unwrap();
        });
    }
}
