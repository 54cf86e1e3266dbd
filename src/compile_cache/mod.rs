//! Compiled programs, stored on disk between runs.
//!
//! An entry is one file, named by the [`Key`] of what was compiled: the program, the options, the
//! plugin's build, the kind of device, and whatever else the compiler's output depends on. It is
//! written under a temporary name and renamed, so that an entry is complete or absent whatever
//! happens to the process; several processes may fill one folder at once, and the last of equal
//! entries stays. An entry that is damaged, or does not match its name, is replaced with a warning.
//! Problems with the folder never stop the program: it compiles, as without a cache.

mod folder;
mod key;

use std::path::PathBuf;

pub(crate) use key::Hasher;
pub use key::Key;

use crate::cache_dir::{cache_dir, process_variables};
use crate::pjrt::{self, CheckedExecutable, Client, CompileOptions, Executable};
use folder::Folder;

/// The variable that names the folder, or is `off`.
const VARIABLE: &str = "GEMMA_XLA_CACHE";
/// The most bytes that the folder holds after an entry was added; the least recently used entries
/// are removed.
const MAX_BYTES: u64 = 2 << 30;

/// A folder of compiled programs; or none (the default), where every program is compiled.
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
    /// The cache that the environment names: `$GEMMA_XLA_CACHE` (`off` for none), else
    /// `gemma-xla/programs` in the user's cache folder.
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

    /// The program, loaded on the devices of the options: from the cache, or compiled and then kept
    /// there.
    ///
    /// # Errors
    /// As [`Client::compile_module`]. Problems with the cache are warnings.
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
            match load(client, &bytes) {
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
            // A plugin need not support it.
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

/// Loads an entry of the cache. The folder is trusted: it is the user's own, created without write
/// access for others.
fn load(client: &Client, bytes: &[u8]) -> pjrt::Result<Executable> {
    let plugin = client.plugin().fingerprint()?;
    client.load_checked(&CheckedExecutable::from_trusted_folder(&plugin, bytes)?)
}
