//! Errors in fetching a repository's files.

use std::io;
use std::path::PathBuf;

/// A result whose error says what is wrong with a repository, its server or the cache.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model could not be fetched from the Hub. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid repository name.
    #[error("{name:?}: not a repository name like google/gemma-2b: {problem}")]
    RepoName {
        /// The text.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An invalid revision name.
    #[error("{revision:?}: not the name of a revision")]
    RevisionName {
        /// The text.
        revision: String,
    },
    /// An environment variable has an invalid value.
    #[error("{variable}: {problem}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The server gives access only to accounts that have accepted the model's licence.
    #[error("{repo}: no access{}: accept the licence on {page} and set HF_TOKEN to a token of that account{}",
        in_brackets(detail), if *with_token { "; the token that was sent does not have access" } else { "" })]
    NoAccess {
        /// The repository.
        repo: String,
        /// Its page.
        page: String,
        /// The server's message, or its status.
        detail: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server knows no such repository, or does not show it.
    #[error("{repo}: no such repository on {endpoint}, or it is not public: if so, accept its licence on {page} and \
        set HF_TOKEN to a token with access{}", if *with_token { "; the token that was sent has none" } else { "" })]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The server.
        endpoint: String,
        /// The page that the repository would have.
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
        /// The existing branches and tags.
        known: Vec<String>,
    },
    /// The repository lists a file, or its index names one, that the server does not have.
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
    /// A revision has no weights in a format that this program reads.
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
    /// No connection, or one that breaks in every attempt.
    #[error("{url}: {problem}")]
    Unreachable {
        /// The address of the request.
        url: String,
        /// Why there was no response.
        problem: String,
    },
    /// The server refused further requests after all retries.
    #[error("{url}: too many requests (status 429){}", after(wait))]
    TooManyRequests {
        /// The address of the request.
        url: String,
        /// The seconds that the server asks to wait, where it does.
        wait: Option<u64>,
    },
    /// The server responded with a failure, in every retry where it could be transient.
    #[error(
        "{url}: the server responded with status {status}{}",
        in_brackets(detail)
    )]
    Status {
        /// The address of the request.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its message.
        detail: String,
    },
    /// The response is not one of the Hub.
    #[error("{url}: {problem}")]
    Response {
        /// The address of the request.
        url: String,
        /// What is wrong with the response.
        problem: String,
    },
    /// A download was interrupted in every attempt.
    #[error(
        "{file}: the download was interrupted after {arrived} bytes{}: {problem}; run again to resume it",
        of_bytes(size)
    )]
    Broken {
        /// The file.
        file: String,
        /// The bytes that have arrived.
        arrived: u64,
        /// The bytes it should have, where known.
        size: Option<u64>,
        /// The last interruption.
        problem: String,
    },
    /// Nothing says when a file is whole.
    #[error(
        "{file}: the server gives neither its length nor its SHA-256, so that nothing says when it \
         is whole; nothing was kept"
    )]
    Unmeasured {
        /// The file.
        file: String,
    },
    /// A file is larger than any of its kind.
    #[error("{file}: has more than the {limit} bytes that such a file may have; nothing was kept")]
    TooLarge {
        /// The file.
        file: String,
        /// The most bytes that are downloaded of it.
        limit: u64,
    },
    /// A file has another size than the server announced.
    #[error("{file}: has {found} bytes, expected {expected}; nothing was kept")]
    WrongSize {
        /// The file.
        file: String,
        /// The size announced.
        expected: u64,
        /// The size of the received file.
        found: u64,
    },
    /// A file's content does not match its ETag.
    #[error("{file}: {algorithm} is {found}, expected {expected}; nothing was kept")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash function.
        algorithm: &'static str,
        /// The hash in the ETag.
        expected: String,
        /// The hash of the received content.
        found: String,
    },
    /// A file's ETag changed between two requests.
    #[error("{file}: ETag is {found}, expected {expected}")]
    WrongEtag {
        /// The file.
        file: String,
        /// The first ETag.
        expected: String,
        /// The ETag later.
        found: String,
    },
    /// Requests are turned off, and the cache lacks something.
    #[error("{repo}: HF_HUB_OFFLINE is set, and {} has {lacking}", cache.display())]
    Offline {
        /// The repository.
        repo: String,
        /// The cache's folder of it.
        cache: PathBuf,
        /// What is missing, such as "no revision main".
        lacking: String,
    },
    /// A file or folder of the cache cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Makes an [`Error::Io`] of a path and the system's error.
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// Whether the Hub could not be reached, or does not give access (any more): then the cache's
    /// files are used. What is not the Hub's JSON comes from something between, such as the login
    /// page of a network.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Error::Unreachable { .. }
            | Error::TooManyRequests { .. }
            | Error::NoAccess { .. }
            | Error::RepoNotFound { .. }
            | Error::Response { .. } => true,
            Error::Status { status, .. } => *status >= 500 || matches!(*status, 401 | 403),
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
