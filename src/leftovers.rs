//! What processes that were killed have left behind: files and folders with temporary names, whose
//! makers hold a lock on them for as long as they live.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// The age below which nothing is removed: its maker may not have locked it yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Locks a temporary file or folder until the result is dropped or the process ends. Nothing where
/// the file system has no locks.
pub(crate) fn hold(path: &Path) -> Option<File> {
    let file = open(path)?;
    file.try_lock().ok()?;
    Some(file)
}

/// Removes the files and folders in `folder` with temporary names that no process holds.
///
/// What cannot be removed stays: this is housekeeping, and no reason to fail.
pub(crate) fn sweep(folder: &Path, is_temporary: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(&is_temporary) {
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) -> Option<()> {
    let metadata = path.symlink_metadata().ok()?;
    let age = metadata.modified().ok()?.elapsed().ok()?;
    if age < YOUNG || metadata.is_symlink() {
        return None;
    }
    let _held = hold(path)?;
    let removed = match metadata.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.ok()
}

fn open(path: &Path) -> Option<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_once_it_is_old() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let age = |name: &str, seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            File::open(path(name)).unwrap().set_modified(then).unwrap();
        };
        for name in ["t-old", "t-held", "t-young", "other"] {
            fs::write(path(name), "half").unwrap();
            age(name, if name == "t-young" { 1 } else { 3600 });
        }
        for name in ["t-folder", "t-held-folder"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), "half").unwrap();
            age(name, 3600);
        }
        let held = ["t-held", "t-held-folder"].map(|name| hold(&path(name)).unwrap());
        sweep(place.path(), |name| name.starts_with("t-"));
        let left = |name: &str| path(name).exists();
        assert!(!left("t-old") && !left("t-folder"));
        assert!(left("t-held") && left("t-held-folder") && left("t-young") && left("other"));
        drop(held);
        sweep(place.path(), |name| name.starts_with("t-"));
        assert!(!left("t-held") && !left("t-held-folder") && left("t-young"));
        sweep(&path("none"), |_| true);
    }
}
