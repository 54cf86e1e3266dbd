//! Errors of a tokenizer.

use std::path::{Path, PathBuf};

/// A tokenizer that cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file exists and is not a tokenizer.
    #[error("{}: not a tokenizer: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The library's error.
        problem: String,
    },
    /// The tokenizer's configuration cannot be read, or does not fit its vocabulary.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A text that could not be encoded, or ids that could not be decoded.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The tokenizer's file.
        path: PathBuf,
        /// The library's error.
        problem: String,
    },
}

impl Error {
    pub(super) fn config(path: &Path, problem: String) -> Self {
        Error::Config {
            path: path.to_path_buf(),
            problem: one_line(&problem),
        }
    }

    pub(super) fn unreadable(path: &Path, problem: &str) -> Self {
        Error::Unreadable {
            path: path.to_path_buf(),
            problem: one_line(problem),
        }
    }
}

/// A library's error on one line.
pub(super) fn one_line(problem: &str) -> String {
    let words: Vec<&str> = problem.split_whitespace().collect();
    words.join(" ")
}
