//! Loading a plugin.

use std::collections::HashMap;
use std::ffi::c_void;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use pjrt_sys::*;

use super::abi::{Api, Padded, call};
use super::client::Client;
use super::elf;
use super::error::{Error, Result, one_line};
use super::options::{self, NamedValue};

/// A PJRT plugin in this process. Clones share it; it is never unloaded.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    path: PathBuf,
    api: Api,
}

/// The plugins of this process, by canonical path. A plugin wants to be initialized once, and its threads and
/// thread-local destructors do not survive being unloaded: so what is loaded stays, and is found here again.
static LOADED: LazyLock<Mutex<HashMap<PathBuf, Plugin>>> = LazyLock::new(Mutex::default);

impl Plugin {
    /// Loads and initializes the plugin at `path`, or finds it where it is loaded already.
    ///
    /// This runs the library's code: only load a plugin that you trust.
    ///
    /// # Errors
    /// Where there is no such file, it is no shared library that loads here, it is no plugin, its API is not 0.x, or it
    /// fails to initialize. Each error but the last names the path.
    pub fn load(path: &Path) -> Result<Plugin> {
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
        // The lock is held throughout, so that no other thread initializes the same plugin. The map is whole even if
        // a holder panicked.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&canonical) {
            return Ok(plugin.clone());
        }
        let plugin = Plugin(Arc::new(Inner {
            path: path.to_owned(),
            api: open(path, &canonical)?,
        }));
        plugin.initialize()?;
        loaded.insert(canonical, plugin.clone());
        Ok(plugin)
    }

    fn initialize(&self) -> Result<()> {
        let mut args = Padded::<PJRT_Plugin_Initialize_Args>::new();
        // SAFETY: the arguments hold no pointers; the first call on this plugin, under the lock of LOADED.
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

    /// What the plugin says of itself, such as `xla_version` and the StableHLO versions that it reads.
    ///
    /// # Errors
    /// Where the plugin does not say.
    pub fn attributes(&self) -> Result<Vec<(String, NamedValue)>> {
        let mut args = Padded::<PJRT_Plugin_Attributes_Args>::new();
        // SAFETY: all fields are results.
        unsafe { call!(self.api(), PJRT_Plugin_Attributes, &mut args) }?;
        // SAFETY: the attributes live as long as the process.
        Ok(unsafe { options::from_raw(args.attributes, args.num_attributes) })
    }

    /// All extensions of the plugin's table, in its order.
    pub fn extensions(&self) -> Vec<Extension> {
        let mut found = Vec::new();
        let mut next = self.api().extensions();
        while let Some(raw) = NonNull::new(next.cast_mut()) {
            // SAFETY: the list is constant data of a library that stays loaded, ended by null; every element begins with
            // a PJRT_Extension_Base.
            let base = unsafe { raw.as_ptr().read() };
            found.push(Extension {
                extension_type: base.type_,
                struct_size: base.struct_size,
                raw,
            });
            next = base.next;
        }
        found
    }

    /// The extension of the given type (a number of the enumeration `PJRT_Extension_Type`), where the plugin has it.
    pub fn extension(&self, extension_type: u32) -> Option<Extension> {
        self.extensions()
            .into_iter()
            .find(|extension| extension.extension_type == extension_type)
    }

    /// Makes a client: the plugin takes hold of its devices. The option `cpu_device_count`, an integer, gives a CPU plugin
    /// that many devices; without it there are four.
    ///
    /// Options are the plugin's own: it may ignore one that it does not know, and an old one may end the process over one
    /// whose value has another type than it expects.
    ///
    /// # Errors
    /// What the plugin says: no such device, an option that it does not know.
    pub fn client(&self, options: &[(String, NamedValue)]) -> Result<Client> {
        Client::create(self, options)
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

/// An extension of a plugin's API: functions beyond the table, such as the registration of custom calls.
#[derive(Debug, Clone, Copy)]
pub struct Extension {
    extension_type: u32,
    struct_size: usize,
    raw: NonNull<PJRT_Extension_Base>,
}

// SAFETY: points to constant data of a library that is never unloaded.
unsafe impl Send for Extension {}
// SAFETY: as for Send.
unsafe impl Sync for Extension {}

impl Extension {
    /// Memory layouts of buffers and executables.
    pub const LAYOUTS: u32 = PJRT_Extension_Type_PJRT_Extension_Type_Layouts;
    /// Registration of custom calls (XLA's foreign function interface).
    pub const FFI: u32 = PJRT_Extension_Type_PJRT_Extension_Type_FFI;

    /// The extension's number in the enumeration `PJRT_Extension_Type`.
    pub fn extension_type(&self) -> u32 {
        self.extension_type
    }

    /// Bytes of the extension's structure, as the plugin was built: fields beyond it are not there.
    pub fn struct_size(&self) -> usize {
        self.struct_size
    }

    /// The extension's structure, which begins with a `PJRT_Extension_Base` and lives as long as the process.
    pub fn as_ptr(&self) -> *const c_void {
        self.raw.as_ptr().cast_const().cast()
    }
}

/// Opens the library, leaks it, and asks it for its table.
fn open(path: &Path, canonical: &Path) -> Result<Api> {
    elf::check(canonical)
        .map_err(|error| Error::PluginUnreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?
        .map_err(|reason| Error::PluginNotLoadable {
            path: path.to_owned(),
            reason,
        })?;
    // SAFETY: runs the library's initializers. That they are sound cannot be checked; load's documentation says so.
    let library = unsafe { libloading::Library::new(canonical) }.map_err(|error| {
        Error::PluginNotLoadable {
            path: path.to_owned(),
            reason: linker_message(&error, canonical),
        }
    })?;
    // Leaked whatever comes: unloading a library of this kind is what is unsafe, not keeping it.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the symbol of this name is a function of this type in every PJRT plugin.
    let get_api =
        unsafe { library.get::<unsafe extern "C" fn() -> *const PJRT_Api>(b"GetPjrtApi") }
            .map_err(|_| Error::NotAPlugin {
                path: path.to_owned(),
            })?;
    // SAFETY: takes no arguments, and answers its static table, which lives as long as the leaked library.
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

/// What dlopen said, which libloading keeps in the error's source; without the path, which our error names already.
fn linker_message(error: &libloading::Error, path: &Path) -> String {
    let source = std::error::Error::source(error);
    let message = source.map_or_else(|| error.to_string(), |source| source.to_string());
    let own = format!("{}: ", path.display());
    one_line(message.strip_prefix(&own).unwrap_or(&message))
}
