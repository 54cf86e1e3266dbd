//! Gemma from JAX/Flax weights, lowered to XLA HLO and run through the PJRT C API.

#![deny(unsafe_code)]
// Standard output and standard error belong to cli/terminal.rs, which never panics and escapes what
// a terminal would obey.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
mod cache_dir;
pub mod chat;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compile_cache;
pub mod config;
pub mod dtype;
pub mod engine;
pub mod executables;
#[cfg(feature = "hub")]
pub mod hub;
mod input_file;
#[allow(unsafe_code)]
// Threads that share a result, and vector instructions: see its documentation.
pub mod kernel;
pub mod model;
pub mod naming;
pub mod parity;
#[allow(unsafe_code)] // What speaks to a plugin: see its documentation.
pub mod pjrt;
pub mod plan;
pub mod plugin;
pub mod sampling;
pub mod sharding;
pub mod source;
pub mod tokenizer;
mod whole_file;
