//! The program as the compiler leaves it: what it runs, how often, and what each part costs.

mod bytes;
mod collectives;
mod copies;
mod data;
mod module;
mod scopes;
#[cfg(test)]
mod tests;
mod trips;
mod walk;

pub use data::{Collective, Executed};
pub use scopes::ScopeCost;

pub(super) use data::{Costs, OptimizedProgram, Relayout, costliest};
pub(super) use module::decode;
pub(super) use scopes::by_scope;
