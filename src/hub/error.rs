//! What can go wrong between a repository's name and its files.

use std::io;
use std::path::PathBuf;

/// A result whose error says what is wrong with a repository, its server or the cache.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model could not be had from the Hub. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that cannot be a repository's name.
    #[error("{name:?}: not a name on the Hub, as google/gemma-2b is one: {problem}")]
    RepoName {
        /// The text.
        name: String,
        /// What no such name has.
        problem: &'static str,
    },
    /// A text that cannot be a revision's name.
    #[error("{revision:?}: not the name of a revision")]
    RevisionName {
        /// The text.
        revision: String,
    },
    /// A variable of the environment has a value that cannot be used.
    #[error("{variable}: {problem}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The server wants someone who has accepted the model's licence.
    #[error("{repo}: no access{}: accept the licence on {page} and set HF_TOKEN to a token of that account{}",
        in_brackets(detail), if *with_token { "; the token that was sent does not have access" } else { "" })]
    NoAccess {
        /// The repository.
        repo: String,
        /// Its page.
        page: String,
        /// What the server said, or its status.
        detail: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server knows no such repository, or does not show it.
    #[error("{repo}: no such repository on {endpoint}, or not a public one: then accept the licence on {page}, where it has one, and set \
        HF_TOKEN to a token with access{}", if *with_token { "; the token that was sent has none" } else { "" })]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The server.
        endpoint: String,
        /// The repository's page, if there were one.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository has no such revision.
    #[error("{repo}: no revision {revision:?}; there are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// The branches and tags that there are.
        known: Vec<String>,
    },
    /// The repository lists a file, or its index names one, and the server does not have it.
    #[error("{repo}: {file}: not in revision {revision}{}", named_by(index))]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The file.
        file: String,
        /// The index that names it, or nothing.
        index: String,
    },
    /// A revision has no weights in a form that this program reads.
    #[error("{repo}: revision {revision} has no weights (looked for {looked_for})")]
    NoWeights {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The names looked for.
        looked_for: String,
    },
    /// The server names a file by a path that leaves the repository's folder.
    #[error("{repo}: the server names a file {file:?}, which is not a path within the repository")]
    FileName {
        /// The repository.
        repo: String,
        /// The name.
        file: String,
    },
    /// An index of shards that was downloaded is malformed.
    #[error(transparent)]
    Index(#[from] crate::checkpoint::Error),
    /// No connection, or one that breaks whenever it is tried.
    #[error("{url}: {problem}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why there was no answer.
        problem: String,
    },
    /// The server has had too many requests and did not relent.
    #[error("{url}: too many requests (status 429){}", after(wait))]
    TooManyRequests {
        /// What was asked for.
        url: String,
        /// The seconds that the server wants between requests, where it says.
        wait: Option<u64>,
    },
    /// The server answered with a failure, again and again where that could pass.
    #[error("{url}: the server answered {status}{}", in_brackets(detail))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said beside that.
        detail: String,
    },
    /// The server's answer is not what the Hub gives.
    #[error("{url}: {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A download broke off, again and again.
    #[error(
        "{file}: the download broke off after {arrived} bytes{}: {problem}; run again to go on from there",
        of_bytes(size)
    )]
    Broken {
        /// The file.
        file: String,
        /// The bytes that are there.
        arrived: u64,
        /// The bytes it should have, where known.
        size: Option<u64>,
        /// How it broke off the last time.
        problem: String,
    },
    /// A file has another size than the server announced.
    #[error("{file}: has {found} bytes, expected {expected}; nothing was kept")]
    WrongSize {
        /// The file.
        file: String,
        /// The size announced.
        expected: u64,
        /// The size of what came.
        found: u64,
    },
    /// A file's content is not what its ETag says.
    #[error("{file}: {algorithm} is {found}, expected {expected}; nothing was kept")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash function.
        algorithm: &'static str,
        /// The hash that the ETag is.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// A file's ETag changed between two requests.
    #[error("{file}: ETag is {found}, expected {expected}")]
    WrongEtag {
        /// The file.
        file: String,
        /// The ETag at first.
        expected: String,
        /// The ETag later.
        found: String,
    },
    /// No request may be made, and the cache has not all that is needed.
    #[error("{repo}: HF_HUB_OFFLINE is set, and {} has {lacking}", cache.display())]
    Offline {
        /// The repository.
        repo: String,
        /// The cache's folder of it.
        cache: PathBuf,
        /// What it lacks, as "no revision main".
        lacking: String,
    },
    /// A file or folder of the cache cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Makes an [`Error::Io`] of a path and what the system said of it.
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// Whether the server could not be asked: then what the cache has is as good as it gets.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::TooManyRequests { .. } => true,
            Error::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

fn named_by(index: &str) -> String {
    if index.is_empty() {
        String::new()
    } else {
        format!(", though {index} names it")
    }
}

fn after(wait: &Option<u64>) -> String {
    match wait {
        Some(seconds) => format!("; it asks to be tried again after {seconds} s"),
        None => String::new(),
    }
}

fn of_bytes(size: &Option<u64>) -> String {
    match size {
        Some(size) => format!(" of {size}"),
        None => String::new(),
    }
}
