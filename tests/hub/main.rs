//! Models from the Hub: a server that these tests start stands for it.

#[path = "../common/mod.rs"]
mod common;
#[path = "../checkpoint/encode.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod encode;
#[path = "../checkpoint/namings.rs"]
mod namings;
#[path = "../checkpoint/samples.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod samples;

mod access;
mod cache;
mod choice;
mod command;
mod faults;
mod forms;
mod killed;
mod server;
mod support;
