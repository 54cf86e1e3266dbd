//! Holds the program's own outputs against what Flax computed.
//!
//! A [`Reference`] is the npz file that `tools/flax/make_reference.py` writes; [`compare()`] runs
//! the same inputs here and gives a [`Report`], which knows its tolerance and whether it was kept.

mod compare;
mod html;
mod reference;
mod statistics;

pub use compare::{ArrayReport, Divergence, LogitsReport, Report, Tolerance, compare};
pub use reference::{Reference, ReferenceError};
pub use statistics::{Agreement, kl_divergence};
