//! What the CPU computes better than XLA has it do: matrix products of few rows, attention of a decode step over a cache, rows of a
//! table, the greatest of a row.
//!
//! A decode step reads every weight and the filled part of the cache for a handful of rows, so it should take as long as these
//! take from memory. XLA's CPU compiler reaches a third of that, and it knows few operations on bfloat16: for the others it first
//! rewrites the whole operand as float32. So its programs can call these functions instead: [`register`] makes them known to a
//! plugin, as [`MATMUL`], [`ATTENTION`], [`TAKE_ROWS`] and [`ARGMAX`].
//!
//! The product is made of vector instructions, in a [`Form`] that is chosen when the program runs. All unsafe code that does
//! not speak to a plugin is in this module: threads that write to parts of one result, and vector instructions that want to
//! be given pointers or the CPU to have them.

mod argmax;
mod attention;
mod call;
mod form;
mod ops;
mod pack;
mod pool;
mod portable;
mod product;
mod rows;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use argmax::ARGMAX;
pub use attention::ATTENTION;
pub use call::{Error, MATMUL, Result, SWITCH, register};
pub use form::{Element, Form};
pub use ops::CpuOps;

use pool::Pool;
pub use product::{Output, Sizes};
pub use rows::TAKE_ROWS;

/// `y` [rows, outputs] = `x` [rows, inputs] · `w` [outputs, inputs]ᵀ, all row-major, on all cores: each sum in float32 and
/// then rounded to the type of `y`. A row of the result is the same, to the bit, whatever the other rows are and however many
/// threads there are; another form gives other last bits.
///
/// # Panics
/// Where a slice is not as long as the sizes say, or this CPU does not have the form.
pub fn multiply<W: Element, Y: Output>(form: Form, sizes: Sizes, x: &[W], w: &[W], y: &mut [Y]) {
    product::multiply(Pool::global(), form, sizes, x, w, y);
}
