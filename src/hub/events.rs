//! What is told of a download while it goes on.

use std::time::Duration;

/// Something that happened. Files are named as in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file is being transferred.
    Begun {
        /// The file.
        file: &'a str,
        /// Its bytes, where known.
        size: Option<u64>,
        /// The bytes that an earlier attempt left.
        kept: u64,
    },
    /// A file has this many bytes now; fewer than before where it had to be begun anew.
    Reached {
        /// The file.
        file: &'a str,
        /// Its bytes so far.
        bytes: u64,
    },
    /// A file is whole and in its place.
    Ended {
        /// The file.
        file: &'a str,
    },
    /// A request failed in a way that may pass, and will be made again after a pause.
    Waiting {
        /// What was asked for: a file, or an address.
        what: &'a str,
        /// What went wrong.
        why: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// Another process is downloading this file; it is waited for.
    Locked {
        /// The file.
        file: &'a str,
    },
    /// The server could not be asked; what the cache has is used.
    Stale {
        /// Why it could not.
        why: &'a str,
    },
}

/// Is told of events, from several threads.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;
