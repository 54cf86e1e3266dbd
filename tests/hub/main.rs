//! Models from the Hub: a server that these tests start stands for it.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod cache;
mod choice;
mod command;
mod faults;
mod killed;
mod server;
mod support;
