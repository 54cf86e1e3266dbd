//! Names of repositories, revisions, files, and contents.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Error, Result};

/// The characters that need no encoding in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The name of a model's repository: `ORG/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoId(String);

impl RepoId {
    /// The name, as `google/gemma-2b`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its folder in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepoId {
    type Err = Error;

    /// Reads a name by the rules of huggingface_hub: letters, digits, `-`, `_` and `.`, at most 96
    /// of them, with one slash; no `--` and no `..`; neither `-` nor `.` at the ends of a part.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |problem| Error::RepoName {
            name: text.to_owned(),
            problem,
        };
        let Some((org, name)) = text.split_once('/') else {
            return Err(refused("it has no slash"));
        };
        for part in [org, name] {
            if part.is_empty() {
                return Err(refused("a part of it is empty"));
            }
            if name.contains('/') {
                return Err(refused("it has more than one slash"));
            }
            if !part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            {
                return Err(refused(
                    "it has characters other than letters, digits, -, _ and .",
                ));
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return Err(refused("a part of it begins or ends with - or ."));
            }
        }
        if text.contains("--") || text.contains("..") {
            return Err(refused("it has -- or .."));
        }
        if text.len() > 96 {
            return Err(refused("it is longer than 96 characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Checks that a revision is a name that can be a path below `refs`, as branches, tags, `refs/pr/1`
/// and commits are.
pub(super) fn check_revision(revision: &str) -> Result<()> {
    if is_path_within(revision) && !revision.contains(char::is_whitespace) {
        Ok(())
    } else {
        Err(Error::RevisionName {
            revision: revision.to_owned(),
        })
    }
}

/// Whether a path with slashes stays within the folder that it is joined to, in any system's
/// notation.
pub(super) fn is_path_within(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(|c: char| matches!(c, '\\' | ':') || c.is_control())
}

/// Whether a string from a server can be the name of a file in the cache, with a suffix appended.
pub(super) fn is_plain_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Encodes a string as one part of a path in an address: slashes are encoded too.
pub(super) fn encode_part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// Encodes a path in an address: slashes stay.
pub(super) fn encode_path(path: &str) -> String {
    path.split('/')
        .map(encode_part)
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_those_that_huggingface_hub_takes() {
        for good in ["google/gemma-2b", "a/b", "A_b.c/d-1.1"] {
            assert_eq!(good.parse::<RepoId>().unwrap().as_str(), good);
        }
        for bad in [
            "", "gemma", "/", "a/", "/b", "a/b/c", "a//b", "../b", "a/..", "./b", "a/b--c", "a/-b",
            "a/b.", "a b/c", "a/b\\c", "ä/b", "~/b", "a/b:c",
        ] {
            let error = bad.parse::<RepoId>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{bad:?}: ")), "{error}");
        }
        assert!(format!("a/{}", "b".repeat(95)).parse::<RepoId>().is_err());
    }

    #[test]
    fn a_repositorys_folder_is_named_as_python_names_it() {
        let repo: RepoId = "google/gemma-2b".parse().unwrap();
        assert_eq!(repo.folder(), "models--google--gemma-2b");
    }

    #[test]
    fn paths_that_leave_their_folder_are_known() {
        for good in [
            "config.json",
            "a/b.json",
            "flax_model-00001-of-00002.msgpack",
            "..a",
            "refs/pr/1",
        ] {
            assert!(is_path_within(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            ".",
            "a//b",
            "C:\\x",
            "..\\x",
            "a\0b",
            "a/",
        ] {
            assert!(!is_path_within(bad), "{bad}");
        }
    }

    #[test]
    fn names_from_servers_cannot_be_paths() {
        assert!(is_plain_name("b5cbb04e0d2cb9ee13a0b6a3b8f6ad02ff1a77f5"));
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "a\\b",
            "a b",
            "ü",
            &"a".repeat(201),
        ] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_are_encoded_as_python_encodes_them() {
        assert_eq!(encode_part("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encode_path("a b/ü.json"), "a%20b/%C3%BC.json");
    }
}
