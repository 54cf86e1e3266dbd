//! Loading a plugin.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use pjrt_sys::*;

use super::abi::{Api, Padded, call};
use super::elf;
use super::error::{Error, Result, one_line};
use super::extension::Extension;
use super::ffi::CustomCallHandler;
use super::fingerprint::{self, Fingerprint};
use super::named_value::{self, NamedValue};
use super::plugin_file::PluginFile;

/// A PJRT plugin in this process. Clones share it; it is never unloaded.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// The library's path when it was loaded, whatever `path` refers to now.
    canonical: PathBuf,
    api: Api,
    fingerprint: OnceLock<Fingerprint>,
    custom_calls: Mutex<CustomCalls>,
}

/// The custom calls of a plugin.
#[derive(Default)]
struct CustomCalls {
    /// The targets that are registered.
    registered: HashSet<&'static str>,
    /// Whether there may be clients or topologies, which makes further registrations a data race.
    closed: bool,
}

/// The plugins of this process, by canonical path. A plugin must be initialized only once, and its
/// threads and thread-local destructors do not survive unloading. So what is loaded stays, and is
/// found here again.
static LOADED: LazyLock<Mutex<HashMap<PathBuf, Plugin>>> = LazyLock::new(Mutex::default);

impl Plugin {
    /// Loads a plugin that the user chose or that was installed and checked; otherwise as
    /// [`Plugin::load`].
    ///
    /// # Errors
    /// As there.
    pub fn open(file: &PluginFile, custom_calls: &[CustomCallHandler]) -> Result<Plugin> {
        // SAFETY: a PluginFile says on whose word its code is run. Its documentation states what is
        // relied on.
        unsafe { Plugin::load(file.path(), custom_calls) }
    }

    /// Loads and initializes the plugin at `path`, or finds it where it is loaded already, and
    /// registers the custom calls that its programs on CPUs may call. [`Plugin::has_custom_call`]
    /// tells whether a registration succeeded: a plugin may take none.
    ///
    /// Custom calls are registered here alone because XLA reads its registry without a lock while
    /// it compiles and loads programs. A target is registered once in the life of the process.
    /// Loading the plugin again with further custom calls registers them only if no client or
    /// topology was made yet; afterwards it warns that they are not available.
    ///
    /// # Safety
    /// This runs the library's code. The file must be a PJRT plugin that is sound to run in this
    /// process: its initializers, and `GetPjrtApi` with a table that stays valid and whose
    /// functions do what `pjrt_c_api.h` says. It must not be modified while the process runs. No
    /// other thread may be changing the process's environment, which initializers read.
    ///
    /// # Errors
    /// Where the file is missing, does not load as a shared library, is not a plugin, has an API
    /// other than 0.x, or fails to initialize. Each error but the last names the path.
    pub unsafe fn load(path: &Path, custom_calls: &[CustomCallHandler]) -> Result<Plugin> {
        let unreadable = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => Error::PluginMissing {
                path: path.to_owned(),
            },
            _ => Error::PluginUnreadable {
                path: path.to_owned(),
                reason: error.to_string(),
            },
        };
        let canonical = path.canonicalize().map_err(unreadable)?;
        if !canonical.metadata().map_err(unreadable)?.is_file() {
            return Err(Error::PluginUnreadable {
                path: path.to_owned(),
                reason: "not a file".to_owned(),
            });
        }
        // The lock is held throughout, so that no other thread initializes the same plugin. The map
        // is consistent even if a holder panicked.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&canonical) {
            plugin.register(custom_calls);
            return Ok(plugin.clone());
        }
        // SAFETY: passed on to the caller.
        let api = unsafe { open(path, &canonical) }?;
        // The dynamic linker gives the same library for another hard link of its file.
        let linked = loaded.values().find(|plugin| plugin.api() == api).cloned();
        let plugin = match linked {
            Some(plugin) => plugin,
            None => {
                let plugin = Plugin(Arc::new(Inner {
                    path: path.to_owned(),
                    canonical: canonical.clone(),
                    api,
                    fingerprint: OnceLock::new(),
                    custom_calls: Mutex::default(),
                }));
                plugin.initialize()?;
                plugin
            }
        };
        plugin.register(custom_calls);
        loaded.insert(canonical, plugin.clone());
        Ok(plugin)
    }

    fn initialize(&self) -> Result<()> {
        let mut args = Padded::<PJRT_Plugin_Initialize_Args>::new();
        // SAFETY: the arguments hold no pointers; the first call on this plugin, under the lock of
        // LOADED.
        unsafe { call!(self.api(), PJRT_Plugin_Initialize, &mut args) }
    }

    pub(super) fn api(&self) -> Api {
        self.0.api
    }

    /// The path that the plugin was loaded from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// (major, minor) of the PJRT C API that the plugin was built with.
    pub fn api_version(&self) -> (i32, i32) {
        self.api().version()
    }

    /// A hash of the plugin's file, which identifies the build as its version does not. It must be
    /// part of every key of what the plugin compiled. Reads the whole file, once.
    ///
    /// # Errors
    /// [`Error::PluginUnreadable`] where the file can no longer be read.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        if let Some(known) = self.0.fingerprint.get() {
            return Ok(*known);
        }
        let found =
            fingerprint::of_file(&self.0.canonical).map_err(|error| Error::PluginUnreadable {
                path: self.path().to_owned(),
                reason: error.to_string(),
            })?;
        Ok(*self.0.fingerprint.get_or_init(|| found))
    }

    /// The plugin's attributes, such as `xla_version` and the StableHLO versions that it reads.
    ///
    /// # Errors
    /// Where the plugin does not provide them.
    pub fn attributes(&self) -> Result<Vec<(String, NamedValue)>> {
        let mut args = Padded::<PJRT_Plugin_Attributes_Args>::new();
        // SAFETY: all fields are results.
        unsafe { call!(self.api(), PJRT_Plugin_Attributes, &mut args) }?;
        // SAFETY: the attributes live as long as the process.
        Ok(unsafe { named_value::from_raw(args.attributes, args.num_attributes) })
    }

    /// All extensions of the plugin's table, in its order.
    pub fn extensions(&self) -> Vec<Extension> {
        Extension::all(self.api())
    }

    /// The extension of the given type (a number of the enumeration `PJRT_Extension_Type`), where
    /// the plugin has it.
    pub fn extension(&self, extension_type: u32) -> Option<Extension> {
        self.extensions()
            .into_iter()
            .find(|extension| extension.extension_type() == extension_type)
    }

    /// Whether programs of this plugin can call this target: whether it was registered when the
    /// plugin was loaded.
    pub fn has_custom_call(&self, target: &str) -> bool {
        self.custom_calls().registered.contains(target)
    }

    /// Registers custom calls that are not registered yet. Where that fails, programs cannot call
    /// them.
    fn register(&self, handlers: &[CustomCallHandler]) {
        let mut calls = self.custom_calls();
        for handler in handlers {
            let target = handler.target();
            if calls.registered.contains(target) {
                continue;
            }
            if calls.closed {
                tracing::warn!(
                    "{}: custom call {target} is not available: custom calls are registered before the \
                     plugin's first client is made",
                    self.path().display()
                );
                continue;
            }
            let Some(extension) = self.extension(Extension::FFI) else {
                tracing::debug!("{}: takes no custom calls", self.path().display());
                return;
            };
            // SAFETY: the lock of custom_calls is held, and no client or topology was made that
            // could compile or load a program: they close the registry under this lock first.
            match unsafe { handler.register(self.api(), &extension) } {
                Ok(()) => {
                    calls.registered.insert(target);
                }
                Err(error) => tracing::debug!("custom call {target} is not available: {error}"),
            }
        }
    }

    /// Ends registration. To be called before anything is made that can compile or load programs.
    pub(super) fn close_registration(&self) {
        self.custom_calls().closed = true;
    }

    fn custom_calls(&self) -> MutexGuard<'_, CustomCalls> {
        // The set is consistent even if a holder panicked.
        let calls = &self.0.custom_calls;
        calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("path", &self.0.path)
            .field("api_version", &self.api_version())
            .finish()
    }
}

/// Opens the library, leaks it, and asks it for its table.
///
/// # Safety
/// As of [`Plugin::load`].
unsafe fn open(path: &Path, canonical: &Path) -> Result<Api> {
    elf::check(canonical)
        .map_err(|error| Error::PluginUnreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?
        .map_err(|reason| Error::PluginNotLoadable {
            path: path.to_owned(),
            reason,
        })?;
    // SAFETY: runs the library's initializers, which the caller guarantees to be sound.
    let library = unsafe { libloading::Library::new(canonical) }.map_err(|error| {
        Error::PluginNotLoadable {
            path: path.to_owned(),
            reason: linker_message(&error, canonical),
        }
    })?;
    // Leaked in any case: unloading such a library would be unsafe, keeping it is not.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the symbol of this name is a function of this type in every PJRT plugin.
    let get_api =
        unsafe { library.get::<unsafe extern "C" fn() -> *const PJRT_Api>(b"GetPjrtApi") }
            .map_err(|_| Error::NotAPlugin {
                path: path.to_owned(),
            })?;
    // SAFETY: takes no arguments, and returns its static table, which lives as long as the leaked
    // library.
    let api = unsafe { Api::new(get_api()) }.ok_or_else(|| Error::NoApi {
        path: path.to_owned(),
    })?;
    let (major, minor) = api.version();
    if major != 0 {
        return Err(Error::ApiVersion {
            path: path.to_owned(),
            major,
            minor,
        });
    }
    Ok(api)
}

/// The message of dlopen, which libloading keeps in the error's source; without the path, which our
/// error names already.
fn linker_message(error: &libloading::Error, path: &Path) -> String {
    let source = std::error::Error::source(error);
    let message = source.map_or_else(|| error.to_string(), |source| source.to_string());
    let own = format!("{}: ", path.display());
    one_line(message.strip_prefix(&own).unwrap_or(&message))
}
