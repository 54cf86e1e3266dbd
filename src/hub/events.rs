//! Events of a download in progress.

use std::time::Duration;

/// An event. Files are named as in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file is being transferred.
    Begun {
        /// The file.
        file: &'a str,
        /// Its bytes, where known.
        size: Option<u64>,
        /// The bytes that are left of an earlier attempt.
        kept: u64,
    },
    /// A file has this many bytes now; fewer than before where its download had to restart.
    Reached {
        /// The file.
        file: &'a str,
        /// Its bytes so far.
        bytes: u64,
    },
    /// A file is complete and has its final name.
    Ended {
        /// The file.
        file: &'a str,
    },
    /// A request failed, perhaps temporarily, and is retried after a pause.
    Waiting {
        /// What was requested: a file, or an address.
        what: &'a str,
        /// What went wrong.
        why: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// Another process is downloading this file; this one waits for it.
    Locked {
        /// The file.
        file: &'a str,
    },
    /// The server could not be reached; the cache's files are used.
    Stale {
        /// Why not.
        why: &'a str,
    },
}

/// A callback for events, called from several threads.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;
