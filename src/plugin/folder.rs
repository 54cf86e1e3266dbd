//! The folder of installed plugins.

use std::path::{Path, PathBuf};

use crate::cache_dir::{Variables, cache_dir, process_variables};

use super::error::{Error, Result};
use super::pins::{PINS, Pin};

/// The folder that plugins are installed in: `$GEMMA_XLA_PLUGINS`, else `gemma-xla/plugins` in
/// `$XDG_CACHE_HOME` or in `~/.cache`.
///
/// # Errors
/// [`Error::NoFolder`] where none of the variables is set.
pub fn folder() -> Result<PathBuf> {
    folder_from(&process_variables)
}

pub(super) fn folder_from(variables: Variables) -> Result<PathBuf> {
    cache_dir(variables, "GEMMA_XLA_PLUGINS", "plugins").ok_or(Error::NoFolder)
}

impl Pin {
    /// The path of this build in the folder for plugins, installed or not.
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder
            .join(format!("{}-{}", self.name, self.version))
            .join(self.file_name())
    }

    /// The state of that file, judged by its size alone: reading hundreds of megabytes on every
    /// start takes too long.
    pub(super) fn state_in(&self, folder: &Path) -> State {
        match self.path_in(folder).metadata() {
            Ok(file) if file.is_file() && file.len() == self.library_size => State::Installed,
            Ok(file) => State::Damaged { size: file.len() },
            Err(_) => State::Missing,
        }
    }
}

/// Whether a pinned plugin is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is a file of the pinned size.
    Installed,
    /// There is another file.
    Damaged {
        /// Its bytes.
        size: u64,
    },
    /// There is no file.
    Missing,
}

/// One line of the list of plugins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// The plugin.
    #[serde(flatten)]
    pub pin: &'static Pin,
    /// Where it is, or would be installed.
    pub path: PathBuf,
    /// Whether it is installed.
    pub state: State,
}

/// All pinned plugins, installed or not.
///
/// # Errors
/// [`Error::NoFolder`].
pub fn list() -> Result<Vec<Listed>> {
    let folder = folder()?;
    Ok(PINS
        .iter()
        .map(|pin| Listed {
            pin,
            path: pin.path_in(&folder),
            state: pin.state_in(&folder),
        })
        .collect())
}
