//! Whether an installed library is the pinned one, without reading hundreds of megabytes each time:
//! what was hashed once is recognised by its size and times.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::install::sha256;
use super::pins::Pin;
use crate::input_file;

/// The most bytes of a record.
const MAX_RECORD: u64 = 1 << 12;

/// A library that was hashed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    sha256: String,
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of its content, and of its entry.
    modified: [i64; 2],
    changed: [i64; 2],
}

impl Record {
    fn of(path: &Path, sha256: &str) -> Result<Self> {
        let file = path.metadata().map_err(Error::io(path))?;
        Ok(Record {
            sha256: sha256.to_owned(),
            size: file.size(),
            inode: file.ino(),
            modified: [file.mtime(), file.mtime_nsec()],
            changed: [file.ctime(), file.ctime_nsec()],
        })
    }
}

/// Checks that a library is the pinned one.
///
/// # Errors
/// [`Error::Changed`], or a file that cannot be read.
pub(super) fn check(path: &Path, pin: &'static Pin) -> Result<()> {
    let now = Record::of(path, pin.library_sha256)?;
    let record = record_of(path);
    let known = input_file::read(&record, MAX_RECORD).ok().flatten();
    let known = known.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    if known.as_ref() == Some(&now) {
        return Ok(());
    }
    let actual = sha256(path)?;
    if actual != pin.library_sha256 {
        return Err(Error::Changed {
            path: path.to_owned(),
            name: pin.name,
            expected: pin.library_sha256,
            actual,
        });
    }
    // In a read-only folder the library is hashed each time.
    if let Ok(text) = serde_json::to_vec(&now) {
        let _ = fs::write(record, text);
    }
    Ok(())
}

fn record_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".verified");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Platform;

    fn pin() -> &'static Pin {
        // The SHA-256 of "abc", from FIPS 180-2, appendix B.1.
        Box::leak(Box::new(Pin {
            name: "small",
            platform: Platform::Cpu,
            package: "package",
            version: "1.0",
            wheel_sha256: "",
            library: "package/library.so",
            library_sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            library_size: 3,
        }))
    }

    #[test]
    fn a_changed_library_is_refused_and_an_unchanged_one_is_hashed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        fs::write(&path, "abd").unwrap();
        let message = check(&path, pin()).unwrap_err().to_string();
        assert!(message.contains("plugin install small"), "{message}");
        assert!(!record_of(&path).exists());
        fs::write(&path, "abc").unwrap();
        check(&path, pin()).unwrap();
        let record = fs::read(record_of(&path)).unwrap();
        check(&path, pin()).unwrap();
        // The same size, another content, and a time that was set back.
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, "abd").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        check(&path, pin()).unwrap_err();
        fs::write(&path, "abc").unwrap();
        fs::write(record_of(&path), b"{").unwrap();
        check(&path, pin()).unwrap();
        assert_ne!(fs::read(record_of(&path)).unwrap(), record);
    }
}
