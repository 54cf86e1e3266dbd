//! Registering custom calls with a plugin.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;

use pjrt_sys::{PJRT_Error, PJRT_Extension_Base};

use super::call::CustomCall;
use super::frame::Handler;
use super::handler::trampoline;
use crate::pjrt::abi::Api;
use crate::pjrt::error::{Error, Result};
use crate::pjrt::extension::Extension;

/// A [`CustomCall`] in the form in which [`Plugin::load`](crate::pjrt::Plugin::load) takes it.
#[derive(Debug, Clone, Copy)]
pub struct CustomCallHandler {
    target: &'static str,
    handler: Handler,
}

impl CustomCallHandler {
    /// The handler of a custom call.
    pub fn of<C: CustomCall>() -> CustomCallHandler {
        CustomCallHandler {
            target: C::TARGET,
            handler: trampoline::<C>,
        }
    }

    /// The name that programs call it by.
    pub fn target(&self) -> &'static str {
        self.target
    }

    /// Registers the handler with a plugin, for programs on the CPU.
    ///
    /// # Safety
    /// Nothing else registers with this plugin, compiles, or loads an executable meanwhile: XLA
    /// reads and writes its registry without a lock.
    ///
    /// # Errors
    /// [`Error::MissingFunction`] where the plugin takes no registrations; otherwise the plugin's
    /// own, for example that the name is taken.
    pub(in crate::pjrt) unsafe fn register(&self, api: Api, extension: &Extension) -> Result<()> {
        let (major, minor) = api.version();
        let register = register_function(extension).ok_or(Error::MissingFunction {
            call: REGISTER,
            major,
            minor,
        })?;
        let mut short = RegisterArgs {
            struct_size: offset_of!(RegisterArgs, traits) + size_of::<u32>(),
            target_name: self.target.as_ptr().cast(),
            target_name_size: self.target.len(),
            handler: self.handler,
            platform_name: PLATFORM.as_ptr().cast(),
            platform_name_size: PLATFORM.len(),
            traits: 0,
        };
        // SAFETY: `register` takes a structure of either form. It refuses one smaller than its own
        // before it reads more of it, which is how plugins of the longer form refuse the shorter.
        // The names live through the call, and the function stays.
        let error = unsafe { register((&raw mut short).cast()) };
        // SAFETY: the plugin hands its error over.
        if unsafe { api.check(REGISTER, error) }.is_err() {
            let mut long = RegisterArgsWithVersion {
                struct_size: offset_of!(RegisterArgsWithVersion, traits) + size_of::<u32>(),
                target_name: short.target_name,
                target_name_size: short.target_name_size,
                api_version: TYPED,
                handler: short.handler,
                platform_name: short.platform_name,
                platform_name_size: short.platform_name_size,
                traits: 0,
            };
            // SAFETY: as above; this plugin has refused the shorter form, so it does not misread
            // the longer one.
            unsafe {
                let error = register((&raw mut long).cast());
                api.check(REGISTER, error)?;
            }
        }
        Ok(())
    }
}

/// The platform of every handler: see [`CustomCall`].
const PLATFORM: &str = "cpu";
const REGISTER: &str = "PJRT_FFI_Register_Handler";
/// The calling convention of [`trampoline`], where a plugin asks for it.
const TYPED: i32 = 1;

type Register = unsafe extern "C" fn(*mut c_void) -> *mut PJRT_Error;

/// `PJRT_FFI_Extension`.
#[repr(C)]
struct FfiExtension {
    base: PJRT_Extension_Base,
    type_register: *const c_void,
    user_data_add: *const c_void,
    register_handler: Option<Register>,
}

/// `PJRT_FFI_Register_Handler_Args` since plugins take nothing but typed handlers.
#[repr(C)]
struct RegisterArgs {
    struct_size: usize,
    target_name: *const c_char,
    target_name_size: usize,
    handler: Handler,
    platform_name: *const c_char,
    platform_name_size: usize,
    traits: u32,
}

/// `PJRT_FFI_Register_Handler_Args` before that.
#[repr(C)]
struct RegisterArgsWithVersion {
    struct_size: usize,
    target_name: *const c_char,
    target_name_size: usize,
    api_version: i32,
    handler: Handler,
    platform_name: *const c_char,
    platform_name_size: usize,
    traits: u32,
}

/// The plugin's function that registers handlers, where its extension is long enough to have it.
fn register_function(extension: &Extension) -> Option<Register> {
    let end = offset_of!(FfiExtension, register_handler) + size_of::<Option<Register>>();
    if extension.struct_size() < end {
        return None;
    }
    let raw = extension.as_ptr().cast::<FfiExtension>();
    // SAFETY: an extension of this type and of that size at least, constant data of a library that
    // stays loaded.
    unsafe { (&raw const (*raw).register_handler).read() }
}
