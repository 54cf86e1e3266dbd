//! What a file of a model can be instead of what its name says: absent, a broken link, a pointer
//! or a web page.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The bytes from which [`Impostor::of`] recognises a file.
pub(crate) const HEAD: usize = 64;

/// Content that is often found in place of a model's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Impostor {
    /// The pointer that git stores in place of a large file.
    LfsPointer,
    /// A web page, for instance a login page that a download saved.
    Html,
}

impl Impostor {
    /// Recognises a file by its first bytes.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        if text.starts_with(b"version https://git-lfs") {
            return Some(Impostor::LfsPointer);
        }
        let text = text.trim_ascii_start();
        let begins = |with: &[u8]| {
            text.get(..with.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
        };
        (begins(b"<!doctype html") || begins(b"<html")).then_some(Impostor::Html)
    }
}

impl fmt::Display for Impostor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Impostor::LfsPointer => {
                "this is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder"
            }
            Impostor::Html => "this is an HTML page, not the file itself; download the file again",
        })
    }
}

/// Whether there is a file of this name.
///
/// # Errors
/// A symbolic link to nothing is an error and not an absent file: in a copied cache, files would
/// be passed over without a word. So is a folder that cannot be looked into.
pub(crate) fn exists(file: &Path) -> io::Result<bool> {
    match file.metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match file.read_link() {
            Ok(target) => Err(io::Error::other(format!(
                "it is a symbolic link to {}, which does not exist",
                target.display()
            ))),
            Err(_) => Ok(false),
        },
        Err(error) => Err(error),
    }
}

/// Opens a regular file.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where there is no such file; a message of its own where it is a
/// broken link, or not a regular file: reading a device may never end, and opening a FIFO waits for
/// a writer.
pub(crate) fn open(file: &Path) -> io::Result<File> {
    if !exists(file)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let not_regular = || io::Error::other("not a regular file");
    // Asked of the path first, since opening some devices has an effect.
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // The path may lead to a FIFO by now.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let opened = options.open(file)?;
    match opened.metadata()?.is_file() {
        true => Ok(opened),
        false => Err(not_regular()),
    }
}

/// Reads a whole file of at most `limit` bytes. Nothing where it is larger.
///
/// # Errors
/// As [`open`]; a message of its own where the file is a pointer or a web page.
pub(crate) fn read(file: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    open(file)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if let Some(impostor) = Impostor::of(content.get(..HEAD).unwrap_or(&content)) {
        return Err(io::Error::other(impostor.to_string()));
    }
    Ok((content.len() as u64 <= limit).then_some(content))
}

/// Text without the mark that some editors put at its start.
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_pages_are_recognised_by_their_first_bytes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:";
        assert_eq!(Impostor::of(pointer), Some(Impostor::LfsPointer));
        for page in [
            "<!DOCTYPE html>",
            "\n <HTML lang=en>",
            "\u{feff}<!doctype HTML",
        ] {
            assert_eq!(
                Impostor::of(page.as_bytes()),
                Some(Impostor::Html),
                "{page}"
            );
        }
        for other in ["", "{}", "version 1", "<h", "<htm"] {
            assert_eq!(Impostor::of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_link_to_nothing_is_not_an_absent_file() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        assert!(!exists(&link).unwrap());
        std::os::unix::fs::symlink("no/such/blob", &link).unwrap();
        let message = exists(&link).unwrap_err().to_string();
        assert!(message.contains("no/such/blob"), "{message}");
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "\u{feff}text").unwrap();
        let content = read(&path, 7).unwrap().unwrap();
        assert_eq!(without_byte_order_mark(&content), b"text");
        assert_eq!(read(&path, 6).unwrap(), None);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        for path in [fifo.as_path(), folder.path(), Path::new("/dev/zero")] {
            let message = read(path, 10).unwrap_err().to_string();
            assert_eq!(message, "not a regular file");
        }
    }
}
