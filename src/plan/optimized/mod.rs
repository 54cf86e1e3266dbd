//! The program as the compiler leaves it: what it runs, how often, and what it says each part costs.

mod bytes;
mod collectives;
mod graph;
mod trips;

pub use collectives::Collective;
pub use graph::{Executed, Optimized, costliest, cycles, memory_bytes};
