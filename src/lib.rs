//! Gemma from JAX/Flax weights, lowered to XLA HLO and run through the PJRT C API.

pub mod bench;
mod cache_dir;
pub mod chat;
pub mod checkpoint;
pub mod cli;
pub mod compile_cache;
pub mod config;
pub mod dtype;
pub mod engine;
pub mod executables;
pub mod hub;
pub mod kernel;
pub mod model;
pub mod parity;
pub mod pjrt;
pub mod plan;
pub mod plugin;
pub mod sampling;
pub mod sharding;
pub mod tokenizer;
