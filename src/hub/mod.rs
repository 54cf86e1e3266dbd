//! The Hugging Face Hub: a model's files by repository and revision, in the cache that Python's
//! huggingface_hub uses too.
//!
//! [`fetch`] lists the files of a revision, selects those that a checkpoint needs with the weights
//! in one format, and downloads what the cache lacks: `models--ORG--NAME/blobs/ETAG` holds
//! contents, `snapshots/COMMIT/FILE` links to them, and `refs/REVISION` names a commit. What Python
//! has downloaded is found, and the reverse.
//!
//! A file is written as `blobs/ETAG.incomplete` and renamed when its size and, where the ETag is
//! one, its hash are right. So a download that is interrupted, or whose process is killed, resumes,
//! and no partial file ever has its final name. A lock that Python takes too keeps two processes
//! from writing one file.

mod address;
mod api;
mod cache;
mod download;
mod error;
mod events;
mod fetch;
mod hash;
mod http;
mod repo;
mod response;
mod select;
mod settings;
mod transfer;

pub use error::{Error, Result};
pub use events::{Event, Observer};
pub use fetch::{Snapshot, fetch};
pub use repo::RepoId;
pub use select::Wanted;
pub use settings::{Retries, Settings, Token};

/// The revision that holds a repository's current state.
pub const MAIN: &str = "main";
/// The revision that repositories with Flax weights beside PyTorch's keep them in.
pub const FLAX: &str = "flax";
