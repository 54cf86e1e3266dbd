//! ETags that are hashes.

use std::fmt::Write;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Hashes a file's content while it arrives, to compare it with its ETag: the Hub's is the SHA-256
/// of a large file, and git's name for the content, a SHA-1 with a header, of a small one. A plain
/// SHA-1 is taken too. Other ETags say nothing about the content.
#[derive(Clone)]
pub(super) enum Check {
    Sha256(Sha256),
    Sha1 { git: Option<Sha1>, plain: Sha1 },
    None,
}

/// A content that does not match its ETag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) algorithm: &'static str,
    pub(super) found: String,
}

impl Check {
    /// A check for an ETag without quotes. Git's header has the content's size in it.
    pub(super) fn of(etag: &str, size: Option<u64>) -> Self {
        let is_hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match etag.len() {
            64 if is_hex => Check::Sha256(Sha256::new()),
            40 if is_hex => Check::Sha1 {
                git: size.map(|size| Sha1::new_with_prefix(format!("blob {size}\0"))),
                plain: Sha1::new(),
            },
            _ => Check::None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Sha256(hash) => hash.update(bytes),
            Check::Sha1 { git, plain } => {
                if let Some(git) = git {
                    git.update(bytes);
                }
                plain.update(bytes);
            }
            Check::None => {}
        }
    }

    /// Compares the hash of all bytes with the ETag.
    pub(super) fn finish(self, etag: &str) -> Result<(), Mismatch> {
        let compare = |algorithm, found: String| match found.eq_ignore_ascii_case(etag) {
            true => Ok(()),
            false => Err(Mismatch { algorithm, found }),
        };
        match self {
            Check::Sha256(hash) => compare("SHA-256", hex(&hash.finalize())),
            Check::Sha1 { git: None, .. } | Check::None => Ok(()),
            Check::Sha1 {
                git: Some(git),
                plain,
            } => match compare("SHA-1", hex(&plain.finalize())) {
                Ok(()) => Ok(()),
                Err(_) => compare("git's SHA-1", hex(&git.finalize())),
            },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(etag: &str, content: &[u8]) -> Result<(), Mismatch> {
        let mut check = Check::of(etag, Some(content.len() as u64));
        for part in content.chunks(5) {
            check.update(part);
        }
        check.finish(etag)
    }

    #[test]
    fn each_kind_of_etag_is_held_against_the_content() {
        // printf 'hello\n' | sha256sum, | git hash-object --stdin, | sha1sum
        let known = [
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "f572d396fae9206628714fb2ce00f72e94f2258f",
        ];
        for etag in known {
            assert_eq!(check(etag, b"hello\n"), Ok(()));
            assert!(check(etag, b"hello.").unwrap_err().found.len() == etag.len());
        }
        assert_eq!(
            check("b1946ac92492d2347c6235b4d2611184-2", b"hello"),
            Ok(()),
            "says nothing"
        );
    }
}
