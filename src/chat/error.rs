//! What can be wrong with a chat template or with messages.

use std::path::{Path, PathBuf};

/// A chat template that cannot be read or rendered. Each message is one line that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is there and cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `tokenizer_config.json` is not JSON.
    #[error("{}: not valid JSON", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and how the text departs from JSON.
        #[source]
        source: serde_json::Error,
    },
    /// A key of `tokenizer_config.json` has a value of another type.
    #[error("{}: {key}: expected {expected}", file.display())]
    WrongType {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What the key holds in a usable file.
        expected: &'static str,
    },
    /// A list of named templates has none of the name that is used without tools.
    #[error("{}: chat_template: none is named \"default\" (named: {names})", file.display())]
    NoDefault {
        /// The file.
        file: PathBuf,
        /// The names that are there, comma separated.
        names: String,
    },
    /// The template is not one.
    #[error("{}: not a chat template: {problem}", origin.display())]
    Syntax {
        /// Where the template comes from.
        origin: PathBuf,
        /// What is wrong, and in which line.
        problem: String,
    },
    /// A conversation without messages.
    #[error("messages: a conversation needs at least one message")]
    NoMessages,
    /// The template called `raise_exception`.
    #[error("{}: the chat template refuses the messages: {words}", origin.display())]
    Refused {
        /// Where the template comes from.
        origin: PathBuf,
        /// The template's own words, on one line.
        words: String,
    },
    /// The template did more work than any real one does.
    #[error(
        "{}: the chat template was stopped after {steps} steps; it may never end",
        origin.display()
    )]
    TooLong {
        /// Where the template comes from.
        origin: PathBuf,
        /// How many steps it was given.
        steps: u64,
    },
    /// The template failed in another way.
    #[error("{}: the chat template failed: {problem}", origin.display())]
    Failed {
        /// Where the template comes from.
        origin: PathBuf,
        /// What went wrong, and in which line.
        problem: String,
    },
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// The words of a template's `raise_exception`, on their way through the template engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

impl Error {
    /// What the engine said while it rendered with `steps` of fuel.
    pub(super) fn rendering(origin: &Path, steps: u64, error: &minijinja::Error) -> Self {
        let origin = origin.to_path_buf();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = cause {
            if let Some(Raised(words)) = inner.downcast_ref() {
                let words = one_line(words);
                return Error::Refused { origin, words };
            }
            let kind = inner.downcast_ref().map(minijinja::Error::kind);
            if kind == Some(minijinja::ErrorKind::OutOfFuel) {
                return Error::TooLong { origin, steps };
            }
            cause = inner.source();
        }
        let problem = one_line(&error.to_string());
        Error::Failed { origin, problem }
    }
}

/// Text on one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
