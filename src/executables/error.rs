//! Why executables cannot be saved or loaded.

use std::path::PathBuf;

use crate::pjrt;

/// Each message is one line that names the folder or file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("--executables: {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest is none.
    #[error("--executables: {}: no manifest: {problem}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The executables were compiled for something else than what is to run them.
    #[error("--executables: {}: compiled for {what} {saved}, and this is {here}", path.display())]
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
    #[error("--executables: {}: has no {program}; it has {saved}", path.display())]
    Missing {
        /// The manifest.
        path: PathBuf,
        /// The program, with its shapes.
        program: String,
        /// Those that there are, comma separated.
        saved: String,
    },
    /// The executable of these shapes is that of another model, or of another version of this program.
    #[error("--executables: {}: its {program} is of another program (hash {saved}, expected {expected})", path.display())]
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
    /// The file is not what was written.
    #[error("--executables: {}: damaged: its SHA-256 is {actual}, and the manifest has {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the manifest has.
        expected: String,
        /// What the file has.
        actual: String,
    },
    /// The plugin does not take the file.
    #[error("--executables: {}: {source}", path.display())]
    Plugin {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: pjrt::Error,
    },
    /// The plugin cannot say what is needed for a manifest.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
}

/// The result of saving or loading executables.
pub type Result<T> = std::result::Result<T, Error>;
