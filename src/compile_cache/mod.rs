//! Compiled programs, kept on disk between runs.
//!
//! An entry is one file, named by the [`Key`] of what was compiled: the program, the options, the plugin's build, the kind
//! of device, and whatever else the compiler's output hangs on. It is written beside its final name and renamed, so that an entry is whole
//! or not there whatever happens to the process; several processes may fill one folder at once, and the last of equal
//! entries stays. An entry that is damaged, or not what its name says, is replaced with a warning. Nothing that is wrong with
//! the folder stops the program: it compiles, as without a cache.

mod folder;
mod key;

use std::path::PathBuf;

pub(crate) use key::Hasher;
pub use key::Key;

use crate::cache_dir::{cache_dir, process_variables};
use crate::pjrt::{self, Client, CompileOptions, Executable};
use folder::Folder;

/// The variable that names the folder, or is `off`.
const VARIABLE: &str = "GEMMA_XLA_CACHE";
/// The most bytes that the folder holds after an entry was added; the entries that were used longest ago make way.
const MAX_BYTES: u64 = 2 << 30;

/// A folder of compiled programs; or none (the default), where every program is compiled anew.
#[derive(Clone, Debug, Default)]
pub struct CompileCache {
    folder: Option<Folder>,
}

/// Where a program came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The compiler made it.
    Compiled,
    /// It was in the cache.
    Cached,
}

impl CompileCache {
    /// The cache that the environment names: `$GEMMA_XLA_CACHE` (`off` for none), else `gemma-xla/programs` in the user's
    /// cache folder.
    pub fn from_environment() -> Self {
        match cache_dir(&process_variables, VARIABLE, "programs") {
            Some(folder) if folder.as_os_str() != "off" => Self::in_folder(folder, MAX_BYTES),
            _ => Self::default(),
        }
    }

    /// A cache in `folder`, which is made when the first entry is written, of at most `max_bytes`.
    pub fn in_folder(folder: PathBuf, max_bytes: u64) -> Self {
        Self {
            folder: Some(Folder::new(folder, max_bytes)),
        }
    }

    /// The program, loaded on the devices of the options: from the cache, or compiled and then kept there.
    ///
    /// # Errors
    /// As [`Client::compile_module`]. What is wrong with the cache is a warning.
    pub fn load_or_compile(
        &self,
        client: &Client,
        module: &hlo::Module,
        options: &CompileOptions,
    ) -> pjrt::Result<(Executable, Origin)> {
        let compile = || client.compile_module(module, options);
        let Some(folder) = &self.folder else {
            return Ok((compile()?, Origin::Compiled));
        };
        let key = Key::new(client, module, options)?;
        if let Some(bytes) = folder.read(&key) {
            match client.deserialize(&bytes) {
                Ok(executable) => return Ok((executable, Origin::Cached)),
                Err(error) => tracing::warn!(
                    "compile cache: {}: {error}; compiling it again",
                    folder.entry(&key).display()
                ),
            }
        }
        let executable = compile()?;
        match executable.serialize() {
            Ok(bytes) => folder.write(&key, &bytes),
            // A plugin need not be able to.
            Err(error) => tracing::debug!("compile cache: {}: {error}", module.name()),
        }
        Ok((executable, Origin::Compiled))
    }

    /// The bytes kept under a key, if there are any.
    pub(crate) fn read(&self, key: &Key) -> Option<Vec<u8>> {
        self.folder.as_ref()?.read(key)
    }

    /// Keeps bytes under a key. What is wrong with the cache is a warning.
    pub(crate) fn write(&self, key: &Key, bytes: &[u8]) {
        if let Some(folder) = &self.folder {
            folder.write(key, bytes);
        }
    }
}
