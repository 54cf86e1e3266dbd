//! Gemma from JAX/Flax weights, lowered to XLA HLO and run through the PJRT C API, without Python.
//!
//! From a checkpoint to text, where `folder` holds config.json, the weights and the tokenizer:
//!
//! ```
//! use gemma_xla::{GenerateOptions, LoadOptions, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gemma-small");
//! let model = Model::open(folder)?.load(&LoadOptions::default())?;
//! for text in model.generate(["Valencia is"], &GenerateOptions::default())? {
//!     println!("{text}");
//! #   assert!(text.prompt == "Valencia is" && !text.text.is_empty());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! This runs on the CPU, whose plugin `gemma-xla plugin install cpu` installs. [`LoadOptions`]
//! names another device, a mesh of devices or a dtype. `examples/generate.rs` is the same as a
//! program.
//!
//! ```text
//! folder ─▶ source: config, checkpoint, tokenizer ─▶ engine: load, compile, run ─▶ text
//!                                                      │
//!              model ─▶ hlo::Module ─▶ pjrt: executables and buffers on the devices
//! ```
//!
//! Text in, text out:
//!
//! - [`source`] opens a model and loads it: [`Model`], [`LoadedModel`].
//! - [`engine`] runs a loaded model on token ids: batches, sessions of rows that come and go, jobs
//!   of any number of prompts, and scores.
//! - [`tokenizer`] turns text into token ids and back.
//! - [`chat`] renders conversations with the model's chat template.
//! - [`sampling`] says how tokens are chosen: options, random keys, stop texts.
//! - `serve` (feature `serve`) answers HTTP requests.
//!
//! Files:
//!
//! - [`checkpoint`] reads and writes msgpack, npz and safetensors.
//! - [`naming`] maps the names and layouts that a parameter is stored by.
//! - [`config`] reads config.json and generation_config.json.
//! - `hub` (feature `hub`) downloads models from the Hugging Face Hub.
//!
//! From a model to a device:
//!
//! - [`model`] declares the parameters and the programs, and lowers them to HLO.
//! - [`sharding`] describes the mesh and the share of each parameter that a device holds.
//! - [`dtype`] has the element types that are stored and computed in.
//! - [`pjrt`] is a safe interface to a PJRT plugin: clients, devices, buffers, executables.
//! - [`plugin`] finds, installs and tests plugins.
//! - [`kernel`] has the CPU kernels that replace some of XLA's operations.
//! - [`compile_cache`] keeps compiled programs on disk; [`executables`] saves them on purpose, for
//!   another machine.
//!
//! Measuring and checking:
//!
//! - [`parity`] compares the model's outputs with what Flax computed.
//! - [`mod@bench`] measures load, prefill and decode beside the memory's bandwidth.
//! - [`plan`] compiles for a TPU slice without a TPU, and reports memory, time and cost.
//!
//! The binary's commands are in the module `cli` (feature `cli`). `docs/architecture.md` in the
//! repository follows a tensor and a prompt through these modules.

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
mod json_text;
#[allow(unsafe_code)]
// Threads that share a result, and vector instructions: see its documentation.
pub mod kernel;
mod leftovers;
pub mod model;
pub mod naming;
pub mod parity;
#[allow(unsafe_code)] // What speaks to a plugin: see its documentation.
pub mod pjrt;
pub mod plan;
pub mod plugin;
mod proc_file;
pub mod sampling;
#[cfg(feature = "serve")]
pub mod serve;
pub mod sharding;
pub mod source;
pub mod tokenizer;
mod trusted;
mod whole_file;

pub use engine::{GenerateOptions, LoadOptions};
pub use source::{LoadedModel, Model};
