//! Errors in saving and loading executables.

use std::path::PathBuf;

use crate::pjrt;

/// Each message is one line that names the folder or file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// An executable that another user may have changed.
    #[error(transparent)]
    Untrusted(#[from] crate::trusted::Distrust),
    /// The manifest is invalid.
    #[error("{}: invalid manifest: {problem}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The executables were compiled for another target.
    #[error("{}: compiled for {what} {saved}, and this is {here}", path.display())]
    Target {
        /// The manifest.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it was compiled for.
        saved: String,
        /// What is here.
        here: String,
    },
    /// The folder has no executable of these shapes.
    #[error("{}: has no {program}; it has {saved}", path.display())]
    Missing {
        /// The manifest.
        path: PathBuf,
        /// The program, with its shapes.
        program: String,
        /// The existing ones, comma separated.
        saved: String,
    },
    /// The executable of these shapes belongs to another model, or to another version of this
    /// program.
    #[error("{}: its {program} belongs to another program (hash {saved}, expected {expected})", path.display())]
    OtherProgram {
        /// The manifest.
        path: PathBuf,
        /// The program, with its shapes.
        program: String,
        /// Its hash.
        saved: String,
        /// The hash of the program that would be compiled.
        expected: String,
    },
    /// The file is damaged.
    #[error("{}: damaged: its SHA-256 is {actual}, and the manifest has {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        actual: String,
    },
    /// The plugin refuses the file.
    #[error("{}: {source}", path.display())]
    Plugin {
        /// The file.
        path: PathBuf,
        /// The plugin's error.
        source: pjrt::Error,
    },
    /// The plugin does not provide what a manifest needs.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
}

/// The result of saving or loading executables.
pub type Result<T> = std::result::Result<T, Error>;
