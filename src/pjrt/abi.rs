//! How this crate calls a plugin.
//!
//! A PJRT function takes one pointer to an `*_Args` structure that begins with its own size, and a
//! plugin refuses a structure smaller than the one it was built with. The structures in `pjrt-sys`
//! are of API 0.54; plugins are newer. Fields are only ever appended and zero is every new field's
//! default, and a plugin accepts a structure larger than its own. So each structure is placed in
//! front of a zeroed tail, and the size of the whole is given: see [`Padded`].
//!
//! The function table grows in the same way, at its end: an entry is read only where the plugin's
//! table is long enough to hold it: see [`Api::call`].

use std::ffi::c_char;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use pjrt_sys::*;

use super::error::{Error, ErrorCode, Result, one_line};

/// Zero bytes behind a structure: room for 24 fields of pointer size that newer plugins may know
/// of.
const TAIL_BYTES: usize = 192;
/// The largest structure and its tail, in words of 8 bytes.
const WORDS: usize = 64;

/// A structure that crosses the ABI by pointer.
///
/// # Safety
/// The type is `#[repr(C)]`, begins with `struct_size: usize`, is aligned to 8 bytes at most, and
/// all of its bits may be zero.
pub(super) unsafe trait Struct: Copy {}

macro_rules! structs {
    ($($name:ident)*) => {$(
        // SAFETY: a C structure of pjrt_c_api.h. Its fields are sizes, integers, flags, raw
        // pointers, optional function pointers and unions of these, for all of which zero bits are
        // a value.
        unsafe impl Struct for $name {}
        const _: () = assert!(
            offset_of!($name, struct_size) == 0
                && align_of::<$name>() <= align_of::<u64>()
                && size_of::<$name>() + TAIL_BYTES <= WORDS * size_of::<u64>()
        );
    )*};
}

structs! {
    PJRT_Buffer_CopyToDevice_Args PJRT_Buffer_CopyToMemory_Args PJRT_Buffer_Delete_Args
    PJRT_Buffer_Destroy_Args PJRT_Buffer_Dimensions_Args PJRT_Buffer_ElementType_Args
    PJRT_Buffer_IsDeleted_Args PJRT_Buffer_MemoryLayout PJRT_Buffer_GetMemoryLayout_Args
    PJRT_Buffer_OnDeviceSizeInBytes_Args PJRT_Buffer_ReadyEvent_Args
    PJRT_Buffer_ToHostBuffer_Args PJRT_Client_AddressableDevices_Args
    PJRT_Client_BufferFromHostBuffer_Args PJRT_Client_Compile_Args PJRT_Client_Create_Args
    PJRT_Client_DefaultDeviceAssignment_Args PJRT_Client_Destroy_Args PJRT_Client_Devices_Args
    PJRT_Client_PlatformName_Args PJRT_Client_PlatformVersion_Args PJRT_Client_ProcessIndex_Args
    PJRT_Compile_Args PJRT_DeviceDescription_Attributes_Args
    PJRT_DeviceDescription_DebugString_Args PJRT_DeviceDescription_Id_Args
    PJRT_DeviceDescription_Kind_Args PJRT_DeviceDescription_ProcessIndex_Args
    PJRT_Device_DefaultMemory_Args PJRT_Device_GetDescription_Args
    PJRT_Device_IsAddressable_Args PJRT_Device_LocalHardwareId_Args PJRT_Device_MemoryStats_Args
    PJRT_Error_Destroy_Args PJRT_Error_GetCode_Args PJRT_Error_Message_Args
    PJRT_Event_Await_Args PJRT_Event_Destroy_Args PJRT_Event_IsReady_Args
    PJRT_Event_OnReady_Args PJRT_Executable_DeserializeAndLoad_Args PJRT_Executable_Destroy_Args
    PJRT_Executable_Fingerprint_Args PJRT_Executable_GetCompiledMemoryStats_Args
    PJRT_Executable_GetCostAnalysis_Args PJRT_Executable_Name_Args
    PJRT_Executable_NumOutputs_Args PJRT_Executable_OptimizedProgram_Args
    PJRT_Executable_OutputDimensions_Args PJRT_Executable_OutputElementTypes_Args
    PJRT_Executable_Serialize_Args PJRT_ExecuteOptions
    PJRT_LoadedExecutable_AddressableDevices_Args PJRT_LoadedExecutable_Destroy_Args
    PJRT_LoadedExecutable_Execute_Args PJRT_LoadedExecutable_Fingerprint_Args
    PJRT_LoadedExecutable_GetExecutable_Args PJRT_Plugin_Attributes_Args
    PJRT_Plugin_Initialize_Args PJRT_Program PJRT_TopologyDescription_Create_Args
    PJRT_TopologyDescription_Destroy_Args PJRT_TopologyDescription_GetDeviceDescriptions_Args
    PJRT_TopologyDescription_PlatformName_Args PJRT_TopologyDescription_PlatformVersion_Args
}

/// A structure in front of its zeroed tail.
///
/// The storage is words, not `T`: a value of type `T` need not keep the bytes of its padding when
/// it moves, and a newer plugin may read a field there.
pub(super) struct Padded<T> {
    words: [u64; WORDS],
    kind: PhantomData<T>,
}

impl<T: Struct> Padded<T> {
    /// All zero but for the size.
    pub(super) fn new() -> Self {
        let mut words = [0; WORDS];
        words[0] = (size_of::<T>() + TAIL_BYTES) as u64;
        Padded {
            words,
            kind: PhantomData,
        }
    }

    /// All zero but for the size and what `fill` sets.
    pub(super) fn with(fill: impl FnOnce(&mut T)) -> Self {
        let mut padded = Self::new();
        fill(&mut padded);
        padded
    }

    /// The pointer to hand to a plugin; it may read and write the tail too.
    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }

    /// The `index`th word of the tail: a field that was appended after API 0.54, or 0 where the
    /// plugin does not know it. Only for structures that fill their last word.
    pub(super) fn appended(&self, index: usize) -> u64 {
        let at = size_of::<T>() / size_of::<u64>() + index;
        self.words.get(at).copied().unwrap_or(0)
    }
}

impl<T: Struct> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the words are aligned to 8 bytes and more than size_of::<T>() long (asserted for
        // every Struct), zero bits are a valid T, and after that only T's own fields are written,
        // by us or by the plugin in C.
        unsafe { &*self.words.as_ptr().cast() }
    }
}

impl<T: Struct> DerefMut for Padded<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref; the borrow of self is exclusive.
        unsafe { &mut *self.words.as_mut_ptr().cast() }
    }
}

/// An entry of the table: takes its arguments by pointer, returns an error or null.
pub(super) type Function<T> = Option<unsafe extern "C" fn(*mut T) -> *mut PJRT_Error>;

/// A plugin's function table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Api(NonNull<PJRT_Api>);

// SAFETY: the table is constant data of a library that is never unloaded (plugin::Plugin leaks it),
// and a plugin's functions may be called from any thread: XLA's own front ends call them from
// thread pools.
unsafe impl Send for Api {}
// SAFETY: as for Send.
unsafe impl Sync for Api {}

impl Api {
    /// Takes the table that `GetPjrtApi` returned; `None` where it is null or too short to hold its
    /// version.
    ///
    /// # Safety
    /// `table` is null or points to a table that stays as it is for the life of the process.
    pub(super) unsafe fn new(table: *const PJRT_Api) -> Option<Api> {
        let table = NonNull::new(table.cast_mut())?;
        let api = Api(table);
        let version_end = offset_of!(PJRT_Api, pjrt_api_version) + size_of::<PJRT_Api_Version>();
        (api.table_size() >= version_end).then_some(api)
    }

    fn table_size(self) -> usize {
        // SAFETY: every table begins with its size; it is constant data (see new).
        unsafe { (&raw const (*self.0.as_ptr()).struct_size).read() }
    }

    /// (major, minor) of the API that the plugin was built with.
    pub(super) fn version(self) -> (i32, i32) {
        // SAFETY: new has checked that the table is long enough to hold its version.
        let version = unsafe { (&raw const (*self.0.as_ptr()).pjrt_api_version).read() };
        (version.major_version, version.minor_version)
    }

    /// The head of the list of extensions, or null.
    pub(super) fn extensions(self) -> *const PJRT_Extension_Base {
        // SAFETY: stands before the version, which new has checked the table to hold.
        unsafe { (&raw const (*self.0.as_ptr()).extension_start).read() }
    }

    /// Reads the entry at `offset` of the table, where the table is long enough to have it.
    ///
    /// # Safety
    /// `F` is the type that pjrt_c_api.h gives to the entry: an optional function pointer.
    unsafe fn entry<F: Copy>(self, name: &'static str, offset: usize) -> Result<F> {
        let (major, minor) = self.version();
        let missing = Error::MissingFunction {
            call: name,
            major,
            minor,
        };
        if offset + size_of::<F>() > self.table_size() {
            return Err(missing);
        }
        // SAFETY: inside the table by the check above; entries are aligned as pointers are, and the
        // caller guarantees the type.
        Ok(unsafe { self.0.as_ptr().byte_add(offset).cast::<F>().read() })
    }

    /// Calls the entry `name` at `offset` of the table. Use it through the macro [`call!`], which
    /// ties the three together.
    ///
    /// # Safety
    /// `offset` is that of the entry `name`, whose argument is `T`; and the pointers in `args` are
    /// what pjrt_c_api.h asks of that function: alive, of the right object, and long enough.
    pub(super) unsafe fn call<T: Struct>(
        self,
        name: &'static str,
        offset: usize,
        args: &mut Padded<T>,
    ) -> Result<()> {
        // SAFETY: the entry's type is that of every entry that returns an error; the caller
        // guarantees T.
        let function = unsafe { self.entry::<Function<T>>(name, offset) }?;
        let Some(function) = function else {
            let (major, minor) = self.version();
            return Err(Error::MissingFunction {
                call: name,
                major,
                minor,
            });
        };
        // SAFETY: args is a live structure of the type that the function takes, with its size set,
        // and the caller guarantees what it points to.
        let error = unsafe { function(args.as_mut_ptr()) };
        // SAFETY: the plugin hands over the error that it returns.
        unsafe { self.check(name, error) }
    }

    /// Turns an error of the plugin into ours, and frees it.
    ///
    /// # Safety
    /// `error` is null or an error of this plugin that the caller owns.
    pub(super) unsafe fn check(self, call: &'static str, error: *mut PJRT_Error) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        let mut code = Padded::<PJRT_Error_GetCode_Args>::with(|args| args.error = error);
        // SAFETY: the error is alive until it is destroyed below. The entries that return no error
        // cannot go through `call`; their types are the ones named.
        unsafe {
            if let Ok(Some(get_code)) = self.entry::<Function<PJRT_Error_GetCode_Args>>(
                "PJRT_Error_GetCode",
                offset_of!(PJRT_Api, PJRT_Error_GetCode),
            ) {
                // An error about an error has nowhere to go, and would need this very function to
                // be freed.
                get_code(code.as_mut_ptr());
            }
        }
        let mut message = Padded::<PJRT_Error_Message_Args>::with(|args| args.error = error);
        // SAFETY: as above; the text is copied before the error that owns it is destroyed.
        let text = unsafe {
            if let Ok(Some(get_message)) = self.entry::<PJRT_Error_Message>(
                "PJRT_Error_Message",
                offset_of!(PJRT_Api, PJRT_Error_Message),
            ) {
                get_message(message.as_mut_ptr());
            }
            text(message.message, message.message_size)
        };
        let mut destroy = Padded::<PJRT_Error_Destroy_Args>::with(|args| args.error = error);
        // SAFETY: the error is ours to free, once, and is not used again.
        unsafe {
            if let Ok(Some(destroy_error)) = self.entry::<PJRT_Error_Destroy>(
                "PJRT_Error_Destroy",
                offset_of!(PJRT_Api, PJRT_Error_Destroy),
            ) {
                destroy_error(destroy.as_mut_ptr());
            }
        }
        Err(Error::Plugin {
            code: ErrorCode::from_raw(code.code),
            message: one_line(&text),
            call,
        })
    }
}

/// Calls a function of the table: `call!(api, PJRT_Client_Create, args)`. The compiler checks that
/// the arguments are those of the entry. Unsafe as [`Api::call`] is.
macro_rules! call {
    ($api:expr, $function:ident, $args:expr) => {{
        // Never called: it makes the compiler compare the type of the arguments with the entry's.
        #[allow(dead_code)]
        fn same_type<T>(
            _: fn(&pjrt_sys::PJRT_Api) -> $crate::pjrt::abi::Function<T>,
            _: &$crate::pjrt::abi::Padded<T>,
        ) {
        }
        same_type(|table| table.$function, $args);
        $crate::pjrt::abi::Api::call(
            $api,
            stringify!($function),
            std::mem::offset_of!(pjrt_sys::PJRT_Api, $function),
            $args,
        )
    }};
}
pub(super) use call;

/// Copies a string that a plugin gave by pointer and length.
///
/// # Safety
/// `data` is null or points to `size` bytes that live through the call.
pub(super) unsafe fn text(data: *const c_char, size: usize) -> String {
    // SAFETY: the caller guarantees pointer and length; bytes need no alignment.
    let bytes = unsafe { slice(data.cast::<u8>(), size) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// A plugin's array as a slice; a null pointer is an empty one, whatever its length.
///
/// # Safety
/// `data` is null or points to `len` values that live, unchanged, as long as the slice is used.
pub(super) unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: not null; the caller guarantees the rest.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// The pointer of a list that may be absent: null where it is empty. Some plugins take any other
/// pointer for a list that is present, and compare its length with the rank.
pub(super) fn list<T>(values: &[T]) -> *const T {
    if values.is_empty() {
        std::ptr::null()
    } else {
        values.as_ptr()
    }
}

/// The object that a plugin returned, or an error where it returned null.
pub(super) fn object<T>(raw: *mut T, call: &'static str) -> Result<NonNull<T>> {
    NonNull::new(raw).ok_or(Error::BadAnswer {
        call,
        what: "null instead of an object",
    })
}
