//! What a file of a model can be instead of what its name says: absent, a broken link, a pointer
//! or a web page.

use std::fmt;
use std::io;
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
}
