//! Files and folders with temporary names. Their makers hold a lock on them for as long as they
//! live, so that what a killed process has left behind is known as such and removed by the next;
//! and what this process has is removed where a signal ends it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often another temporary name is tried where a sweep was faster than the lock.
const ATTEMPTS: usize = 100;

/// What this process has to take back before it ends.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

#[derive(Debug, PartialEq, Eq)]
enum Open {
    /// A file or folder.
    Path(PathBuf),
    /// A process that writes into one.
    Child(u32),
}

fn open_ones() -> MutexGuard<'static, Vec<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary file or folder that belongs to this process until the claim is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    /// None where the file system has no locks.
    lock: Option<File>,
}

impl Claim {
    /// Makes a temporary file or folder and claims it. `path_of` tells where it is.
    ///
    /// # Errors
    /// What `make` says.
    pub fn make<T>(
        make: impl Fn() -> io::Result<T>,
        path_of: impl Fn(&T) -> &Path,
    ) -> io::Result<(T, Self)> {
        for _ in 0..ATTEMPTS {
            let made = make()?;
            let path = path_of(&made).to_path_buf();
            match lock(&path) {
                Lock::Held(file) => return Ok((made, Self::new(path, Some(file)))),
                Lock::Impossible => return Ok((made, Self::new(path, None))),
                // Another process has just taken it for abandoned.
                Lock::Lost => {}
            }
        }
        Err(io::Error::other(
            "temporary files are removed as soon as they are made",
        ))
    }

    fn new(path: PathBuf, lock: Option<File>) -> Self {
        open_ones().push(Open::Path(path.clone()));
        Self { path, lock }
    }

    /// Lets processes that are started from now on hold the lock too: what they write into the
    /// folder is not removed under them where this process is killed.
    pub fn share_with_children(&self) {
        if let Some(lock) = &self.lock {
            // Without it, the folder is removed too early at worst.
            let _ = rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty());
        }
    }

    /// Runs `rename`, which gives the file or folder its final name. A signal that ends the process
    /// removes what has the temporary name before that or after it, and never in between.
    pub fn rename<T>(&self, rename: impl FnOnce() -> T) -> T {
        let _open = open_ones();
        rename()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        open_ones().retain(|one| !matches!(one, Open::Path(path) if *path == self.path));
    }
}

/// A child process that is killed where a signal ends this one.
#[derive(Debug)]
pub(crate) struct Child(u32);

impl Child {
    /// Starts a child. The second result must be dropped before the child is waited for: its number
    /// may be another process's afterwards.
    ///
    /// # Errors
    /// A program that cannot be run.
    pub fn start(command: &mut Command) -> io::Result<(process::Child, Self)> {
        // A signal waits until the child is known.
        let mut open = open_ones();
        let child = command.spawn()?;
        let id = child.id();
        open.push(Open::Child(id));
        Ok((child, Self(id)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        open_ones().retain(|one| *one != Open::Child(self.0));
    }
}

/// Removes what this process has open, and stops all others of its threads that would make or
/// rename more: the process must end at once.
#[cfg(feature = "cli")]
pub(crate) fn remove_own() {
    let open = open_ones();
    for one in open.iter() {
        if let Open::Child(id) = one
            && let Some(id) = i32::try_from(*id)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }
    for one in open.iter() {
        if let Open::Path(path) = one {
            let _ = remove(path);
        }
    }
    // Whoever waits for it waits until the end.
    std::mem::forget(open);
}

/// Removes the files and folders in `folder` with temporary names that no process holds.
///
/// What cannot be removed stays: this is housekeeping, and no reason to fail.
pub(crate) fn sweep(folder: &Path, is_temporary: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(&is_temporary)
            && let Lock::Held(_file) = lock(&entry.path())
        {
            let _ = remove(&entry.path());
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// What came of locking a temporary file or folder.
enum Lock {
    /// It is this process's.
    Held(File),
    /// It is another's, or it is there no more.
    Lost,
    /// The file system has no locks, or it is neither a file nor a folder.
    Impossible,
}

fn lock(path: &Path) -> Lock {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Lock::Lost,
        Err(_) => return Lock::Impossible,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Lock::Lost,
        Err(TryLockError::Error(_)) => return Lock::Impossible,
    }
    // Who had the lock before may have removed or renamed what it is on.
    let is_there = match (file.metadata(), path.symlink_metadata()) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    };
    match is_there {
        true => Lock::Held(file),
        false => Lock::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Claim {
        let made = Claim::make(|| make(path).map(|()| path.to_path_buf()), PathBuf::as_path);
        made.unwrap().1
    }

    #[test]
    fn what_nobody_holds_is_removed_at_once() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["t-file", "other"] {
            fs::write(path(name), "half").unwrap();
        }
        fs::create_dir(path("t-folder")).unwrap();
        fs::write(path("t-folder").join("file"), "half").unwrap();
        std::os::unix::fs::symlink("other", path("t-link")).unwrap();
        let held = [
            claim(&path("t-held"), |path| fs::write(path, "half")),
            claim(&path("t-held-folder"), |path| fs::create_dir(path)),
        ];
        sweep(place.path(), |name| name.starts_with("t-"));
        let left = |name: &str| path(name).symlink_metadata().is_ok();
        assert!(!left("t-file") && !left("t-folder"));
        assert!(left("t-held") && left("t-held-folder") && left("other") && left("t-link"));
        drop(held);
        sweep(place.path(), |name| name.starts_with("t-"));
        assert!(!left("t-held") && !left("t-held-folder"));
        sweep(&path("none"), |_| true);
    }

    #[test]
    fn a_sweep_at_any_moment_takes_nothing_from_who_makes_files() {
        let place = tempfile::tempdir().unwrap();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_done.load(relaxed) {
                        sweep(place.path(), |name| name.starts_with("t-"));
                    }
                });
            }
            for number in 0..500 {
                let (file, claim) = Claim::make(
                    || tempfile::Builder::new().prefix("t-").tempfile_in(&place),
                    tempfile::NamedTempFile::path,
                )
                .unwrap();
                let target = place.path().join(number.to_string());
                claim.rename(|| file.persist(&target)).unwrap();
                assert!(target.exists());
            }
            is_done.store(true, relaxed);
        });
    }

    #[test]
    fn a_claim_is_open_until_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let is_open = || open_ones().contains(&Open::Path(path.clone()));
        let first = claim(&path, |path| fs::write(path, "half"));
        assert!(is_open());
        first.rename(|| fs::rename(&path, place.path().join("final")).unwrap());
        drop(first);
        assert!(!is_open());
    }
}
