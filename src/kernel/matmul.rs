//! The product as a custom call of XLA programs.

use hlo::ElementType;

use super::instruction_set::{Element, InstructionSet};
use super::pool::Pool;
use super::product::{Output, ProductSizes, multiply};
use super::switch::instruction_set;
use crate::pjrt::{Attributes, CallResult, CustomCall, Operand};

/// The name that programs call the product by.
///
/// Operands: `x` [rows, inputs] and `w` [outputs, inputs], both bfloat16 or both float32. Result:
/// [rows, outputs], float32, or bfloat16 where the operands are (the float32 sums, rounded). All
/// row-major, which are the layouts of a custom call that specifies none.
pub const MATMUL: &str = "gemma_xla_matmul";

/// [`MATMUL`].
pub(super) struct Matmul;

impl CustomCall for Matmul {
    const TARGET: &'static str = MATMUL;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> Result<(), String> {
        attributes.only(&[])?;
        let ([x, w], [y]) = (operands, results) else {
            return Err("takes two operands and has one result".to_owned());
        };
        let sizes = sizes(x, w, y)?;
        let instructions = instruction_set()?;
        let run = match (x.element_type(), y.element_type()) {
            (ElementType::BF16, ElementType::F32) => run(
                instructions,
                sizes,
                x.as_bf16(),
                w.as_bf16(),
                y.as_f32_mut(),
            ),
            (ElementType::BF16, ElementType::BF16) => run(
                instructions,
                sizes,
                x.as_bf16(),
                w.as_bf16(),
                y.as_bf16_mut(),
            ),
            (ElementType::F32, ElementType::F32) => {
                run(instructions, sizes, x.as_f32(), w.as_f32(), y.as_f32_mut())
            }
            _ => None,
        };
        run.ok_or_else(|| {
            format!(
                "{} times {} to {} is not supported",
                x.element_type().name(),
                w.element_type().name(),
                y.element_type().name()
            )
        })
    }
}

/// Multiplies, where all three have the element type that was asked of them.
fn run<W: Element, Y: Output>(
    instructions: InstructionSet,
    sizes: ProductSizes,
    x: Option<&[W]>,
    w: Option<&[W]>,
    y: Option<&mut [Y]>,
) -> Option<()> {
    multiply(Pool::global(), instructions, sizes, x?, w?, y?);
    Some(())
}

/// The sizes of the product, where the dimensions fit.
fn sizes(x: &Operand, w: &Operand, y: &CallResult) -> Result<ProductSizes, String> {
    let (x, w, y) = (x.dims(), w.dims(), y.dims());
    match (x, w, y) {
        (&[rows, inputs], &[outputs, w_inputs], &[y_rows, y_outputs])
            if inputs == w_inputs && rows == y_rows && outputs == y_outputs =>
        {
            let size = |dim: i64| usize::try_from(dim).map_err(|error| error.to_string());
            Ok(ProductSizes {
                rows: size(rows)?,
                inputs: size(inputs)?,
                outputs: size(outputs)?,
            })
        }
        _ => Err(format!("{x:?} times the transpose of {w:?} is not {y:?}")),
    }
}
