//! Safe PJRT: XLA's devices and compilers, through the C interface of a plugin.
//!
//! A [`Plugin`] is a shared library; a [`Client`] gives access to its devices. A client compiles an
//! HLO module to an [`Executable`], moves arrays to and from [`Buffer`]s on a [`Device`], and runs
//! the executable on them. A [`Topology`] compiles for devices that this machine does not have.
//!
//! All unsafe code that speaks to a plugin is in this module. What it rests on:
//! - A plugin is trusted to behave as `pjrt_c_api.h` specifies.
//! - Every object keeps what it was made from alive: buffers, executables, events and devices their
//!   client; the client its plugin; and a plugin is never unloaded.
//! - Structures that cross the boundary may be older than the plugin: `abi` explains how that is
//!   handled.

mod abi;
mod buffer;
mod client;
mod device;
mod element_type;
mod elf;
pub mod environment;
mod error;
mod event;
mod executable;
mod extension;
mod ffi;
mod fingerprint;
mod handle;
mod host;
mod layout;
mod named_value;
mod options;
mod plugin;
mod plugin_file;
mod program;
mod serialized;
mod threads;
mod topology;
mod transfer;

pub use buffer::Buffer;
pub use client::Client;
pub use device::{Device, DeviceDescription, MemoryStats};
pub use error::{Error, ErrorCode, Result};
pub use event::Event;
pub use executable::{Executable, Execution};
pub use extension::Extension;
pub use ffi::{Attributes, CallResult, CustomCall, CustomCallHandler, Operand};
pub use host::{HostBuffer, HostBytes, HostData};
pub use named_value::NamedValue;
pub use options::{CompileOptions, ExecuteOptions, OptionValue, TransferOptions};
pub use plugin::Plugin;
pub use plugin_file::{PluginFile, Provenance};
pub use program::{CompiledExecutable, CompiledMemoryStats, OutputShape, ProgramCode};
pub(crate) use serialized::CheckedExecutable;
pub use topology::Topology;
