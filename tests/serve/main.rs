//! `gemma-xla serve`, through the binary and its sockets.
#![cfg(feature = "serve")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod openai;
mod operation;
mod support;
mod tgi;
mod together;
