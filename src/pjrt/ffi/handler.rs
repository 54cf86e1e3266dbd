//! The function that XLA calls: reads and checks a call frame, and runs the custom call.

use std::ffi::{CString, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use hlo::ElementType;

use super::attributes::Attributes;
use super::call::{CallResult, CustomCall, Operand};
use super::frame::{
    BufferValue, CallFrame, ErrorCreateArgs, FfiApi, MOST, Metadata, MetadataExtension, Values,
};
use crate::pjrt::abi::slice;
use crate::pjrt::element_type::byte_size;

/// The newest version of the FFI that `frame` was read against.
const KNOWN_MINOR: i32 = 5;
/// The version to report where the caller does not state its own: the oldest that the newest still
/// accepts.
const OLDEST_MINOR: i32 = 1;
/// `XLA_FFI_Extension_Metadata`.
const METADATA: i32 = 1;
/// `XLA_FFI_ExecutionStage_EXECUTE`.
const EXECUTE: i32 = 3;
/// `XLA_FFI_ArgType_BUFFER` and `XLA_FFI_RetType_BUFFER`.
const BUFFER: i32 = 1;
/// `XLA_FFI_Error_Code_INVALID_ARGUMENT` and `…_INTERNAL`.
const INVALID_ARGUMENT: i32 = 3;
const INTERNAL: i32 = 13;
/// The function that XLA calls. Every target has its own: the frame does not name the target.
///
/// # Safety
/// `frame` is a call frame of XLA, whose pointers are valid during the call.
pub(super) unsafe extern "C" fn trampoline<C: CustomCall>(frame: *mut CallFrame) -> *mut c_void {
    // A panic must not unwind into XLA.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: passed on.
        unsafe { answer::<C>(frame) }
    }));
    let (code, message) = match outcome {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(message)) => (INVALID_ARGUMENT, format!("{}: {message}", C::TARGET)),
        Err(_) => (INTERNAL, format!("{}: panicked", C::TARGET)),
    };
    // SAFETY: passed on.
    unsafe { report(frame, code, message) }
}

/// Makes an error of XLA.
///
/// # Safety
/// As for [`trampoline`].
unsafe fn report(frame: *mut CallFrame, code: i32, message: String) -> *mut c_void {
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    let mut args = ErrorCreateArgs {
        struct_size: offset_of!(ErrorCreateArgs, code) + size_of::<i32>(),
        extension_start: std::ptr::null_mut(),
        message: text.as_ptr(),
        code,
    };
    // SAFETY: the frame's table lives as long as the plugin; it is read as far as it is long
    // enough. The message lives through the call, which copies it.
    unsafe {
        let create = NonNull::new(frame)
            .and_then(|frame| api(frame.as_ptr()))
            .filter(|api| (*api.as_ptr()).struct_size >= size_of::<FfiApi>())
            .and_then(|api| (*api.as_ptr()).error_create);
        match create {
            Some(create) => create(&raw mut args),
            // Without a way to report the failure, returning would mean that the results are valid.
            None => std::process::abort(),
        }
    }
}

/// The frame's function table.
///
/// # Safety
/// As for [`trampoline`].
unsafe fn api(frame: *mut CallFrame) -> Option<NonNull<FfiApi>> {
    // SAFETY: every frame begins with these fields.
    NonNull::new(unsafe { (*frame).api }.cast_mut())
}

/// Describes the handler, or calls it.
///
/// # Safety
/// As for [`trampoline`].
unsafe fn answer<C: CustomCall>(frame: *mut CallFrame) -> std::result::Result<(), String> {
    if frame.is_null() {
        return Err("no call frame".to_owned());
    }
    // SAFETY: a frame begins with its size and its extensions, and is read only as far as its size
    // goes. What its pointers refer to begins with a size of its own.
    unsafe {
        let size = (*frame).struct_size;
        if size < offset_of!(CallFrame, stage) {
            return Err(format!("a call frame of {size} bytes"));
        }
        let mut next = (*frame).extension_start;
        while let Some(extension) = NonNull::new(next) {
            if (*extension.as_ptr()).extension_type == METADATA {
                return describe(frame, extension.as_ptr().cast());
            }
            next = (*extension.as_ptr()).next;
        }
        if size < size_of::<CallFrame>() {
            return Err(format!("a call frame of {size} bytes"));
        }
        if (*frame).stage != EXECUTE {
            return Ok(());
        }
        let operands = values(&(*frame).operands)?;
        let results = values(&(*frame).results)?;
        check_apart(&operands, &results)?;
        let operands: Vec<Operand> = operands
            .iter()
            .map(|array| Operand {
                element_type: array.element_type,
                dims: array.dims,
                bytes: slice(array.data, array.len),
            })
            .collect();
        let mut results: Vec<CallResult> = results
            .iter()
            .map(|array| CallResult {
                element_type: array.element_type,
                dims: array.dims,
                bytes: std::slice::from_raw_parts_mut(array.data, array.len),
            })
            .collect();
        let attributes = Attributes::read(&(*frame).attributes)?;
        C::call(&attributes, &operands, &mut results)
    }
}

/// States the version of the interface that the handler implements.
///
/// # Safety
/// As for [`trampoline`]; the extension is the frame's, of the type METADATA.
unsafe fn describe(
    frame: *mut CallFrame,
    extension: *mut MetadataExtension,
) -> std::result::Result<(), String> {
    // SAFETY: XLA keeps metadata and its extension, which it wants filled in, through the call;
    // each is used as far as its size goes.
    unsafe {
        let metadata = (*extension).metadata;
        if (*extension).base.struct_size < size_of::<MetadataExtension>()
            || metadata.is_null()
            || (*metadata).struct_size < offset_of!(Metadata, traits) + size_of::<u32>()
        {
            return Err("metadata of an unknown version".to_owned());
        }
        let version = api(frame)
            .filter(|api| (*api.as_ptr()).struct_size >= offset_of!(FfiApi, internal_api))
            .map(|api| {
                (
                    (*api.as_ptr()).api_version.major,
                    (*api.as_ptr()).api_version.minor,
                )
            });
        // The parts used here have not changed since 0.0, so the plugin's own version is
        // implemented, up to the newest known.
        let minor = match version {
            Some((0, minor)) => minor.min(KNOWN_MINOR),
            _ => OLDEST_MINOR,
        };
        (*metadata).api_version.major = 0;
        (*metadata).api_version.minor = minor;
        (*metadata).traits = 0;
        if (*metadata).struct_size >= size_of::<Metadata>() {
            // No state: the id of no type.
            (*metadata).state_type_id = 0;
        }
    }
    Ok(())
}

/// An array in XLA's memory that has been found to be usable.
struct Array<'a> {
    element_type: ElementType,
    dims: &'a [i64],
    data: *mut u8,
    len: usize,
}

/// The operands or the results of a call.
///
/// # Safety
/// `list` is part of a call frame of XLA; the arrays are not used after the call.
unsafe fn values<'a>(list: &Values) -> std::result::Result<Vec<Array<'a>>, String> {
    if list.struct_size < size_of::<Values>() || !(0..=MOST).contains(&list.size) {
        return Err(format!("a list of {} values", list.size));
    }
    let count = list.size as usize;
    if count > 0 && (list.types.is_null() || list.values.is_null()) {
        return Err("the list of values is missing".to_owned());
    }
    // SAFETY: XLA provides as many types and pointers as the size states.
    let (types, values) = unsafe { (slice(list.types, count), slice(list.values, count)) };
    types
        .iter()
        .zip(values)
        .map(|(&kind, &value)| match NonNull::new(value) {
            // SAFETY: a value of that type is an XLA_FFI_Buffer, alive during the call.
            Some(value) if kind == BUFFER => unsafe { array(value.as_ptr()) },
            _ => Err(format!("a value of type {kind} is not an array")),
        })
        .collect()
}

/// # Safety
/// `buffer` is an `XLA_FFI_Buffer` that lives, with what it points to, through the call.
unsafe fn array<'a>(buffer: *const BufferValue) -> std::result::Result<Array<'a>, String> {
    // SAFETY: the structure begins with its size, and is read further only where that reaches.
    let (dtype, data, rank, dims) = unsafe {
        if (*buffer).struct_size < size_of::<BufferValue>() {
            return Err("an array of an unknown version".to_owned());
        }
        (
            (*buffer).dtype,
            (*buffer).data,
            (*buffer).rank,
            (*buffer).dims,
        )
    };
    let element_type = ElementType::ALL
        .into_iter()
        .find(|element_type| element_type.to_proto() as i32 == dtype)
        .ok_or_else(|| format!("element type {dtype} is not supported"))?;
    if !(0..=MOST).contains(&rank) || (rank > 0 && dims.is_null()) {
        return Err(format!("an array of {rank} dimensions"));
    }
    // SAFETY: XLA provides as many dimensions as the rank states.
    let dims = unsafe { slice(dims, rank as usize) };
    let len = byte_size(element_type, dims).map_err(|error| error.to_string())?;
    // An empty array needs no address, but a slice does.
    let data = if len == 0 {
        NonNull::<u64>::dangling().as_ptr().cast()
    } else {
        data
    };
    if data.is_null() || !(data as usize).is_multiple_of(element_type.size()) {
        return Err(format!("an array at address {data:?}"));
    }
    Ok(Array {
        element_type,
        dims,
        data,
        len,
    })
}

/// Whether each result has memory of its own, which a Rust slice that is written requires.
fn check_apart(operands: &[Array], results: &[Array]) -> std::result::Result<(), String> {
    let overlap = |a: &Array, b: &Array| {
        let (a_start, b_start) = (a.data as usize, b.data as usize);
        a_start < b_start.saturating_add(b.len) && b_start < a_start.saturating_add(a.len)
    };
    for (index, result) in results.iter().enumerate() {
        let others = operands.iter().chain(results.iter().take(index));
        if others.into_iter().any(|other| overlap(result, other)) {
            return Err(format!("result {index} shares memory with another array"));
        }
    }
    Ok(())
}
