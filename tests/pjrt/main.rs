//! The PJRT layer against real plugins: every test runs on two CPU plugins, whose C interfaces are
//! thirty-four minor versions apart.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod events;
mod execution;
mod loading;
mod programs;
mod support;
mod topology;
mod transfers;
