//! What can go wrong with a server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An error of the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The file of API keys cannot be used.
    #[error("{}: {problem}", file.display())]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An option cannot be used.
    #[error("{argument}: {problem}")]
    Argument {
        /// The option's name, as a field of [`ServeOptions`](super::ServeOptions).
        argument: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The system gives no threads or sockets.
    #[error("cannot serve: {0}")]
    System(#[from] io::Error),
    /// The model cannot be loaded, or the devices failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
    /// The model could not be loaded, in the words of whoever loads it.
    #[error("{0}")]
    Load(String),
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;
