//! The folder that installed plugins are kept in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::pins::{PINS, Pin};

/// Reads an environment variable; one that is empty counts as not set.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's environment.
pub(super) fn process_variables(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The folder that plugins are installed in: `$GEMMA_XLA_PLUGINS`, else `gemma-xla/plugins` in `$XDG_CACHE_HOME` or in
/// `~/.cache`.
///
/// # Errors
/// [`Error::NoFolder`] where none of the variables is set.
pub fn folder() -> Result<PathBuf> {
    folder_from(&process_variables)
}

pub(super) fn folder_from(variables: Variables) -> Result<PathBuf> {
    if let Some(folder) = variables("GEMMA_XLA_PLUGINS") {
        return Ok(folder.into());
    }
    // The specification has relative paths there ignored.
    let cache = variables("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(Path::new(&variables("HOME")?).join(".cache")))
        .ok_or(Error::NoFolder)?;
    Ok(cache.join("gemma-xla").join("plugins"))
}

impl Pin {
    /// Where this build is in the folder for plugins, installed or not.
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder
            .join(format!("{}-{}", self.name, self.version))
            .join(self.file_name())
    }

    /// What is at that place, judged by its size alone: reading hundreds of megabytes takes too long for every start.
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
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Whether it is there.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(set: &[(&str, &str)]) -> Result<PathBuf> {
        folder_from(&|name| {
            let (_, value) = set.iter().find(|(set, _)| *set == name)?;
            Some(value.into())
        })
    }

    #[test]
    fn the_own_variable_comes_before_the_cache_and_the_cache_before_home() {
        let all = [
            ("GEMMA_XLA_PLUGINS", "/own"),
            ("XDG_CACHE_HOME", "/cache"),
            ("HOME", "/home/someone"),
        ];
        assert_eq!(folder_with(&all).unwrap(), Path::new("/own"));
        assert_eq!(
            folder_with(&all[1..]).unwrap(),
            Path::new("/cache/gemma-xla/plugins")
        );
        assert_eq!(
            folder_with(&all[2..]).unwrap(),
            Path::new("/home/someone/.cache/gemma-xla/plugins")
        );
        assert!(matches!(folder_with(&[]), Err(Error::NoFolder)));
    }

    #[test]
    fn a_relative_cache_folder_is_ignored() {
        let set = [("XDG_CACHE_HOME", "cache"), ("HOME", "/home/someone")];
        assert_eq!(
            folder_with(&set).unwrap(),
            Path::new("/home/someone/.cache/gemma-xla/plugins")
        );
    }
}
