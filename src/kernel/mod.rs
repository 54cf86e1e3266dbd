//! Matrix products on the CPU, where few rows of activations meet many weights.
//!
//! A decode step reads every weight for a handful of rows, so it should take as long as the weights take from memory.
//! XLA's CPU compiler reaches a third of that, and with a single row of bfloat16 it first rewrites all weights as float32.
//! So its programs can call the product here instead: [`register`] makes it known to a plugin, under [`TARGET`].
//!
//! The product is made of vector instructions, in a [`Form`] that is chosen when the program runs. All unsafe code that does
//! not speak to a plugin is in this module: threads that write to parts of one result, and vector instructions that want to
//! be given pointers.

mod call;
mod form;
mod pack;
mod pool;
mod portable;
mod product;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use call::{Error, Result, SWITCH, TARGET, register};
pub use form::{Element, Form};

use pool::Pool;
pub use product::{Output, Sizes};

/// `y` [rows, outputs] = `x` [rows, inputs] · `w` [outputs, inputs]ᵀ, all row-major, on all cores: each sum in float32 and
/// then rounded to the type of `y`. A row of the result is the same, to the bit, whatever the other rows are and however many
/// threads there are; another form gives other last bits.
///
/// # Panics
/// Where a slice is not as long as the sizes say, or this CPU does not have the form.
pub fn multiply<W: Element, Y: Output>(form: Form, sizes: Sizes, x: &[W], w: &[W], y: &mut [Y]) {
    product::multiply(Pool::global(), form, sizes, x, w, y);
}
