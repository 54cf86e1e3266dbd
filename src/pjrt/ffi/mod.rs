//! Custom calls: functions of this process that an XLA program calls, registered through PJRT's FFI extension.
//!
//! A program calls such a function by name, on an XLA thread, with the addresses of its operands and results. The
//! structures in between are those of XLA's `xla/ffi/api/c_api.h`, versions 0.0 to 0.5, whose parts used here are the same
//! throughout. What is checked before a function sees a buffer: sizes of structures, element types, dimensions, null and
//! misaligned pointers, and that a result shares no memory with anything else.

mod attributes;
mod frame;
mod handler;

use std::collections::HashSet;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::sync::{LazyLock, Mutex, PoisonError};

use hlo::ElementType;
use pjrt_sys::{PJRT_Error, PJRT_Extension_Base};

use super::error::{Error, Result};
use super::plugin::{Extension, Plugin};
pub use attributes::Attributes;
use frame::Handler;
use handler::trampoline;

/// A function that XLA programs can call.
pub trait CustomCall: 'static {
    /// The name that programs call it by: the custom call's target.
    const TARGET: &'static str;

    /// Computes the results from the operands. Called from any thread, several at once; it must not call PJRT. A panic
    /// becomes an error of the program.
    ///
    /// # Errors
    /// The message that the program fails with; such as that it was called with other operands than it takes.
    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> std::result::Result<(), String>;
}

/// A dense, row-major array that a program hands to a [`CustomCall`].
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    element_type: ElementType,
    dims: &'a [i64],
    bytes: &'a [u8],
}

/// A dense, row-major array that a [`CustomCall`] computes.
#[derive(Debug)]
pub struct CallResult<'a> {
    element_type: ElementType,
    dims: &'a [i64],
    bytes: &'a mut [u8],
}

impl<'a> Operand<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The size of each dimension; none is negative.
    pub fn dims(&self) -> &'a [i64] {
        self.dims
    }

    /// The elements in the machine's byte order; as many as the dimensions say.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl CallResult<'_> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The size of each dimension; none is negative.
    pub fn dims(&self) -> &[i64] {
        self.dims
    }

    /// The elements in the machine's byte order; as many as the dimensions say. They hold anything before they are written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

macro_rules! elements {
    ($($method:ident $method_mut:ident $element:ty, $variant:ident;)*) => {
        impl<'a> Operand<'a> {$(
            /// The elements, where they are of this type.
            pub fn $method(&self) -> Option<&'a [$element]> {
                if self.element_type != ElementType::$variant {
                    return None;
                }
                // SAFETY: any bits are a value of this type, and it has no padding.
                let (before, elements, after) = unsafe { self.bytes.align_to::<$element>() };
                (before.is_empty() && after.is_empty()).then_some(elements)
            }
        )*}

        impl CallResult<'_> {$(
            /// The elements, where they are of this type. They hold anything before they are written.
            pub fn $method_mut(&mut self) -> Option<&mut [$element]> {
                if self.element_type != ElementType::$variant {
                    return None;
                }
                // SAFETY: any bits are a value of this type, and it has no padding.
                let (before, elements, after) = unsafe { self.bytes.align_to_mut::<$element>() };
                (before.is_empty() && after.is_empty()).then_some(elements)
            }
        )*}
    };
}

elements! {
    as_f32 as_f32_mut f32, F32;
    as_bf16 as_bf16_mut half::bf16, BF16;
    as_s32 as_s32_mut i32, S32;
    as_u16 as_u16_mut u16, U16;
}

impl Plugin {
    /// Registers a function for the programs of this plugin on `platform` (as [`Client::platform_name`] gives it). Once it
    /// is registered it stays; doing so again changes nothing. Programs that call it can be compiled, and compiled ones
    /// loaded, from then on.
    ///
    /// XLA looks functions up without a lock, so all that programs call must be registered before the plugin compiles or loads any.
    ///
    /// [`Client::platform_name`]: super::Client::platform_name
    ///
    /// # Errors
    /// [`Error::MissingFunction`] where the plugin takes no registrations; otherwise what the plugin says.
    pub fn register_custom_call<C: CustomCall>(&self, platform: &str) -> Result<()> {
        let (major, minor) = self.api_version();
        let register = self
            .extension(Extension::FFI)
            .and_then(|extension| registration(&extension))
            .ok_or(Error::MissingFunction {
                call: REGISTER,
                major,
                minor,
            })?;
        let target = C::TARGET;
        let key = (register as usize, target, platform.to_owned());
        // Held until the plugin has answered: it has no lock either.
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        if registered.contains(&key) {
            return Ok(());
        }
        let mut short = RegisterArgs {
            struct_size: offset_of!(RegisterArgs, traits) + size_of::<u32>(),
            target_name: target.as_ptr().cast(),
            target_name_size: target.len(),
            handler: trampoline::<C>,
            platform_name: platform.as_ptr().cast(),
            platform_name_size: platform.len(),
            traits: 0,
        };
        // SAFETY: `register` takes a structure of either form, and refuses one that is smaller than its own before it reads
        // more of it; the longer form's plugins so refuse the shorter one. The names live through the call, and the
        // function stays.
        let error = unsafe { register((&raw mut short).cast()) };
        // SAFETY: the plugin's error, handed over.
        if unsafe { self.api().check(REGISTER, error) }.is_err() {
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
            // SAFETY: as above; this plugin has refused the shorter form, so it is not one that would misread the longer.
            unsafe {
                let error = register((&raw mut long).cast());
                self.api().check(REGISTER, error)?;
            }
        }
        registered.insert(key);
        Ok(())
    }
}

/// A registration: the address of the plugin's function for it, target, and platform.
type Registration = (usize, &'static str, String);

/// What was registered.
static REGISTERED: LazyLock<Mutex<HashSet<Registration>>> = LazyLock::new(Mutex::default);

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
fn registration(extension: &Extension) -> Option<Register> {
    let end = offset_of!(FfiExtension, register_handler) + size_of::<Option<Register>>();
    if extension.struct_size() < end {
        return None;
    }
    let raw = extension.as_ptr().cast::<FfiExtension>();
    // SAFETY: an extension of this type and of that size at least, constant data of a library that stays loaded.
    unsafe { (&raw const (*raw).register_handler).read() }
}
