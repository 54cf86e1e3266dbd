//! The file of a plugin, and on whose word its code is run.

use std::path::{Path, PathBuf};

/// A plugin's file whose code may run in this process.
///
/// Loading a plugin runs foreign code, and no check can show that the code is sound. So a value of
/// this type states on whose word it is run; [`Plugin::open`](super::Plugin::open) relies on that.
/// Only [`plugin::locate`](crate::plugin::locate) and [`plugin::find`](crate::plugin::find) make
/// one:
/// - an installed file is that of a pinned build. Its SHA-256 was checked when it was installed,
///   and its size since; only the user can write to its folder;
/// - any other file was chosen by whoever runs the process, by an argument, by an environment
///   variable, or by being installed in the system, as a program is chosen that is then executed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PluginFile {
    path: PathBuf,
    #[serde(rename = "source")]
    provenance: Provenance,
}

/// Where the choice of a plugin's file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// The path itself was given as the device.
    Given,
    /// An environment variable of this name.
    Variable(&'static str),
    /// The folder of installed plugins.
    Folder,
    /// A path where TPU machines have libtpu.
    System,
}

impl PluginFile {
    /// To be called where the provenance is established, and nowhere else.
    pub(crate) fn new(path: PathBuf, provenance: Provenance) -> PluginFile {
        PluginFile { path, provenance }
    }

    /// The path of the shared library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the choice of the file comes from.
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }
}
