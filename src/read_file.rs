//! The one way to open a file that is read whole: it must be a regular file, and has a largest
//! size.
//!
//! Opening a FIFO waits for a writer, and reading a device may never end; a name in a checkpoint's
//! folder can be either.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::input_file::{HEAD, Impostor};

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub(crate) struct ReadError {
    /// The file.
    pub(crate) path: PathBuf,
    /// What is wrong with it.
    pub(crate) problem: Problem,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The system's error.
    Io(io::Error),
    /// A link whose target does not exist.
    DanglingLink(PathBuf),
    /// A folder, FIFO, socket or device.
    NotRegular,
    /// It has more bytes than any such file has.
    TooLarge { limit: u64 },
    /// It is something else than its name says.
    Impostor(Impostor),
    /// It is not text.
    NotUtf8 { valid_up_to: usize },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Io(error) => error.fmt(f),
            Problem::DanglingLink(target) => {
                write!(f, "a link to {}, which does not exist", target.display())
            }
            Problem::NotRegular => f.write_str("not a regular file"),
            Problem::TooLarge { limit } => {
                write!(f, "larger than the {limit} bytes that such a file may have")
            }
            Problem::Impostor(impostor) => impostor.fmt(f),
            Problem::NotUtf8 { valid_up_to } => write!(f, "not UTF-8 at byte {valid_up_to}"),
        }
    }
}

impl ReadError {
    /// Whether there is nothing of this name, not even a link.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(&self.problem, Problem::Io(e) if e.kind() == io::ErrorKind::NotFound)
    }
}

impl From<Problem> for io::Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Io(error) => error,
            Problem::NotUtf8 { .. } => {
                io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
            }
            other => io::Error::other(other.to_string()),
        }
    }
}

/// Opens a regular file.
///
/// # Errors
/// A file that cannot be opened, or is not a regular one.
pub(crate) fn open(path: &Path) -> Result<File, ReadError> {
    open_regular(path).map_err(|problem| ReadError {
        path: path.to_path_buf(),
        problem,
    })
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], a larger file, or one that cannot be read.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let failed = |problem| ReadError {
        path: path.to_path_buf(),
        problem,
    };
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| failed(Problem::Io(e)))?;
    if bytes.len() as u64 > limit {
        return Err(failed(Problem::TooLarge { limit }));
    }
    if let Some(impostor) = Impostor::of(bytes.get(..HEAD).unwrap_or(&bytes)) {
        return Err(failed(Problem::Impostor(impostor)));
    }
    Ok(bytes)
}

/// [`read`] for a file of UTF-8 text. A byte-order mark at its start is left out.
///
/// # Errors
/// As [`read`], or bytes that are not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, ReadError> {
    let mut bytes = read(path, limit)?;
    if without_byte_order_mark(&bytes).len() < bytes.len() {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|e| ReadError {
        path: path.to_path_buf(),
        problem: Problem::NotUtf8 {
            valid_up_to: e.utf8_error().valid_up_to(),
        },
    })
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Text without the mark that some editors put at its start.
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

fn open_regular(path: &Path) -> Result<File, Problem> {
    // Opening some devices has an effect, so that the name is looked at first.
    let metadata = path.metadata().map_err(|error| match path.read_link() {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => Problem::DanglingLink(target),
        _ => Problem::Io(error),
    })?;
    if !metadata.is_file() {
        return Err(Problem::NotRegular);
    }
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // What the name stands for may have changed: do not wait for the writer of a FIFO.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(Problem::Io)?;
    match file.metadata().map_err(Problem::Io)?.is_file() {
        true => Ok(file),
        false => Err(Problem::NotRegular),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_without_a_byte_order_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "\u{feff}text").expect("written");
        assert_eq!(read(&path, 7).expect("read").len(), 7);
        assert_eq!(read_text(&path, 7).expect("read"), "text");
        let error = read(&path, 6).expect_err("too large").to_string();
        assert!(error.contains("file: larger than the 6 bytes"), "{error}");
        std::fs::write(&path, b"ab\xff").expect("written");
        let error = read_text(&path, 7).expect_err("not text").to_string();
        assert!(error.ends_with("file: not UTF-8 at byte 2"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo runs").success());
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/zero")] {
            let error = read(path, 10).expect_err("not a file").to_string();
            assert!(error.ends_with("not a regular file"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_not_an_absent_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        assert!(read(&link, 10).expect_err("absent").is_absent());
        std::os::unix::fs::symlink("../blobs/gone", &link).expect("linked");
        let error = read(&link, 10).expect_err("dangling");
        assert!(!error.is_absent());
        let message = error.to_string();
        assert!(
            message.ends_with("link: a link to ../blobs/gone, which does not exist"),
            "{message}"
        );
    }
}
