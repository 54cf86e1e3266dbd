//! XLA takes every operation of the `hlo` crate and computes what the crate says it does: programs
//! of them run on the CPU plugins of both supported versions of the PJRT API, and give the values
//! that the host computed or a person wrote down.

mod collective;
mod control;
mod convert;
mod coverage;
mod dot;
mod elementwise;
mod gather;
mod host;
mod interface;
mod movement;
mod plugins;
mod program;
mod reduce;
mod select;
