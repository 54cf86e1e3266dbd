//! Custom calls: functions of this process that an XLA program calls, registered through PJRT's FFI
//! extension.
//!
//! A program calls such a function by name, on a thread of XLA, with the addresses of its operands
//! and results. The structures in between are those of XLA's `xla/ffi/api/c_api.h`, versions 0.0 to
//! 0.5; the parts used here are the same in all of them. Before a function sees a buffer, these are
//! checked: sizes of structures, element types, dimensions, null and misaligned pointers, and that
//! a result shares no memory with another array.

mod attributes;
mod call;
mod frame;
mod handler;
mod register;

pub use attributes::Attributes;
pub use call::{CallResult, CustomCall, Operand};
pub use register::CustomCallHandler;
