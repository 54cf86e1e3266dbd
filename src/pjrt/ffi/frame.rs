//! The structures of `xla/ffi/api/c_api.h` that a call is made of, as far as they are used.

use std::ffi::{c_char, c_void};

/// More operands, results or attributes than any program has, and dimensions than XLA allows.
pub(super) const MOST: i64 = 1 << 16;

/// `XLA_FFI_Handler`.
pub(super) type Handler = unsafe extern "C" fn(*mut CallFrame) -> *mut c_void;

/// `XLA_FFI_Extension_Base`.
#[repr(C)]
pub(super) struct FrameExtension {
    pub struct_size: usize,
    pub extension_type: i32,
    pub next: *mut FrameExtension,
}

/// `XLA_FFI_Api_Version`.
#[repr(C)]
pub(super) struct ApiVersion {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub major: i32,
    pub minor: i32,
}

/// `XLA_FFI_Metadata`.
#[repr(C)]
pub(super) struct Metadata {
    pub struct_size: usize,
    pub api_version: ApiVersion,
    pub traits: u32,
    pub state_type_id: i64,
}

/// `XLA_FFI_Metadata_Extension`.
#[repr(C)]
pub(super) struct MetadataExtension {
    pub base: FrameExtension,
    pub metadata: *mut Metadata,
}

/// The beginning of `XLA_FFI_Api`.
#[repr(C)]
pub(super) struct FfiApi {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub api_version: ApiVersion,
    pub internal_api: *const c_void,
    pub error_create: Option<unsafe extern "C" fn(*mut ErrorCreateArgs) -> *mut c_void>,
}

/// `XLA_FFI_Error_Create_Args`.
#[repr(C)]
pub(super) struct ErrorCreateArgs {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub message: *const c_char,
    pub code: i32,
}

/// `XLA_FFI_Args` and `XLA_FFI_Rets`.
#[repr(C)]
pub(super) struct Values {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub size: i64,
    pub types: *const i32,
    pub values: *const *mut BufferValue,
}

/// `XLA_FFI_Buffer`.
#[repr(C)]
pub(super) struct BufferValue {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub dtype: i32,
    pub data: *mut u8,
    pub rank: i64,
    pub dims: *const i64,
}

/// `XLA_FFI_Attrs`.
#[repr(C)]
pub(super) struct AttributeList {
    pub struct_size: usize,
    pub extension_start: *mut c_void,
    pub size: i64,
    pub types: *const i32,
    pub names: *const *const ByteSpan,
    pub values: *const *const c_void,
}

/// `XLA_FFI_ByteSpan`.
#[repr(C)]
pub(super) struct ByteSpan {
    pub start: *const u8,
    pub len: usize,
}

/// `XLA_FFI_Scalar`.
#[repr(C)]
pub(super) struct ScalarValue {
    pub dtype: i32,
    pub value: *const c_void,
}

/// The beginning of `XLA_FFI_CallFrame`.
#[repr(C)]
pub(super) struct CallFrame {
    pub struct_size: usize,
    pub extension_start: *mut FrameExtension,
    pub api: *const FfiApi,
    pub context: *mut c_void,
    pub stage: i32,
    pub operands: Values,
    pub results: Values,
    pub attributes: AttributeList,
}
