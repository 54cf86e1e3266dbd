//! What the CPU computes faster than XLA has it do: matrix products of few rows, the attention of a
//! decode step over a cache, rows of a table, the maximum of a row, the greatest elements of a row.
//!
//! A decode step reads every weight and the filled part of the cache for a handful of rows, so it
//! should take as long as reading them from memory takes. XLA's CPU compiler reaches a third of
//! that speed, and it supports few operations on bfloat16: for the others it first rewrites the
//! whole operand as float32. So programs can call these functions instead, as [`MATMUL`],
//! [`ATTENTION`], [`TAKE_ROWS`], [`ARGMAX`] and [`TOP_K`]: [`custom_calls`] gives them to
//! [`Plugin::open`](crate::pjrt::Plugin::open), and [`are_available`] tells whether a client's
//! programs may call them.
//!
//! The product consists of vector instructions of an [`InstructionSet`] that is chosen when the
//! program runs. All unsafe code that does not speak to a plugin is in this module: threads that
//! write to parts of one result, and vector instructions that need pointers or a CPU that has them.

mod argmax;
mod attention;
mod instruction_set;
mod matmul;
mod ops;
mod pack;
mod pool;
mod portable;
mod product;
mod rows;
mod switch;
#[cfg(test)]
mod tests;
mod tile;
mod top_k;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use argmax::ARGMAX;
pub use attention::ATTENTION;
pub use instruction_set::{Element, InstructionSet};
pub use matmul::MATMUL;
pub use ops::CpuOps;
pub use product::{Output, ProductSizes};
pub use rows::TAKE_ROWS;
pub use switch::{Error, Result, SWITCH};
pub use top_k::TOP_K;

use crate::pjrt::{Client, CustomCallHandler};
use pool::Pool;

/// The functions as custom calls, for a plugin that may be one for CPUs; none where [`SWITCH`] is
/// `off`. Other plugins' programs do not call them.
///
/// # Errors
/// Where [`SWITCH`] has an invalid value.
pub fn custom_calls() -> Result<Vec<CustomCallHandler>> {
    if switch::chosen()?.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![
        CustomCallHandler::of::<matmul::Matmul>(),
        CustomCallHandler::of::<attention::AttentionCall>(),
        CustomCallHandler::of::<rows::TakeRows>(),
        CustomCallHandler::of::<argmax::Argmax>(),
        CustomCallHandler::of::<top_k::TopK>(),
    ])
}

/// Whether the client's programs may call the functions: its devices are CPUs, and all functions
/// were registered when its plugin was loaded. Otherwise the compiler's own operations have to do.
pub fn are_available(client: &Client) -> bool {
    let is_cpu = matches!(client.platform_name(), "cpu" | "host" | "Host");
    is_cpu
        && [MATMUL, ATTENTION, TAKE_ROWS, ARGMAX, TOP_K]
            .into_iter()
            .all(|target| client.plugin().has_custom_call(target))
}

/// `y` [rows, outputs] = `x` [rows, inputs] · `w` [outputs, inputs]ᵀ, all row-major, on all cores:
/// each sum in float32 and then rounded to the type of `y`. A row of the result has the same bits
/// whatever the other rows are, on any number of threads; another instruction set gives other last
/// bits.
///
/// # Panics
/// Where a slice does not have the length of the sizes, or this CPU lacks the instructions.
pub fn multiply<W: Element, Y: Output>(
    instructions: InstructionSet,
    sizes: ProductSizes,
    x: &[W],
    w: &[W],
    y: &mut [Y],
) {
    product::multiply(Pool::global(), instructions, sizes, x, w, y);
}
