//! Products summed over contracted dimensions.

use crate::check::{Context, without};
use crate::instruction::Op;
use crate::{Builder, ElementType, Result, Shape, Value};

/// Which dimensions [`Builder::dot_general`] pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DotDims {
    /// The left operand's batch dimensions, in the order of their partners.
    pub lhs_batch: Vec<i64>,
    /// The right operand's batch dimensions.
    pub rhs_batch: Vec<i64>,
    /// The left operand's dimensions that are summed over, in the order of their partners.
    pub lhs_contracting: Vec<i64>,
    /// The right operand's dimensions that are summed over.
    pub rhs_contracting: Vec<i64>,
}

/// How exactly a device's matrix unit multiplies floats; `Default` may round f32 operands to bf16
/// on a TPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// The device's fastest.
    #[default]
    Default,
    /// Between the two.
    High,
    /// The operands' own precision.
    Highest,
}

impl Precision {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
            Self::Highest => "highest",
        }
    }
}

impl Builder {
    /// The sum of products over the contracting dimensions, for each index of the batch dimensions.
    /// The result's sizes are the batch, then the left operand's free dimensions, then the right
    /// operand's.
    ///
    /// `output_type` asks for sums in a wider type than the operands' (bf16 operands, f32 sums).
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where operand types differ, are `pred`, or
    /// `output_type` is narrower or of another kind,
    /// [`Error::Dimensions`](crate::Error::Dimensions) where dimension numbers are out of range,
    /// repeated or unpaired, [`Error::Shape`](crate::Error::Shape) where paired sizes differ.
    pub fn dot_general(
        &self,
        lhs: Value,
        rhs: Value,
        dims: DotDims,
        output_type: Option<ElementType>,
        precision: Precision,
    ) -> Result<Value> {
        let (a, b) = (self.array("dot", lhs)?, self.array("dot", rhs)?);
        let context = Context {
            op: "dot",
            operands: &[&a, &b],
        };
        context.same_element_type()?;
        let from = a.element_type;
        if from == ElementType::Pred {
            return Err(context.element_type("not defined on pred"));
        }
        let to = output_type.unwrap_or(from);
        let one_kind = from.is_float() == to.is_float()
            && from.is_signed_integer() == to.is_signed_integer()
            && to != ElementType::Pred;
        // The two half types are of one width, and neither holds the other.
        if !one_kind || to.size() < from.size() || (to.size() == from.size() && to != from) {
            return Err(context.element_type(format!("cannot sum in {to}")));
        }

        let lhs_paired = [dims.lhs_batch.as_slice(), &dims.lhs_contracting].concat();
        let rhs_paired = [dims.rhs_batch.as_slice(), &dims.rhs_contracting].concat();
        context.distinct(
            "batch and contracting dimensions (left)",
            &lhs_paired,
            a.rank(),
        )?;
        context.distinct(
            "batch and contracting dimensions (right)",
            &rhs_paired,
            b.rank(),
        )?;
        if dims.lhs_batch.len() != dims.rhs_batch.len() || lhs_paired.len() != rhs_paired.len() {
            return Err(context.dimensions(format!("dimensions are unpaired: {dims:?}")));
        }
        let mut result = Vec::new();
        for (i, (&l, &r)) in lhs_paired.iter().zip(&rhs_paired).enumerate() {
            let size = context.size("left dimension", l, &a.dims)?;
            if size != context.size("right dimension", r, &b.dims)? {
                return Err(context.shape(format!(
                    "dimension {l} (left) and {r} (right) differ in size"
                )));
            }
            if i < dims.lhs_batch.len() {
                result.push(size);
            }
        }
        result.extend(without(&a.dims, &lhs_paired));
        result.extend(without(&b.dims, &rhs_paired));
        self.push(
            Op::Dot(dims, precision),
            Shape::array(to, &result),
            &[lhs, rhs],
        )
    }
}
