//! Extensions of a plugin's function table.

use std::ffi::c_void;
use std::ptr::NonNull;

use pjrt_sys::*;

use super::abi::Api;

/// An extension of a plugin's API: functions beyond the table, such as the registration of custom
/// calls.
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
    /// All extensions of a plugin's table, in its order.
    pub(super) fn all(api: Api) -> Vec<Extension> {
        let mut found = Vec::new();
        let mut next = api.extensions();
        while let Some(raw) = NonNull::new(next.cast_mut()) {
            // SAFETY: the list is constant data of a library that stays loaded, ended by null;
            // every element begins with a PJRT_Extension_Base.
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

    /// The extension's structure, which begins with a `PJRT_Extension_Base` and lives as long as
    /// the process.
    pub fn as_ptr(&self) -> *const c_void {
        self.raw.as_ptr().cast_const().cast()
    }
}
