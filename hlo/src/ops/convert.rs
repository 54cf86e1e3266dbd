//! From one element type to another.

use super::elementwise::{Domain, check_domain};
use crate::check::Context;
use crate::instruction::Op;
use crate::{Builder, ElementType, Result, Value};

impl Builder {
    /// Converts each element's value: floats round to nearest even, float to integer truncates, and
    /// anything but 0 is true.
    ///
    /// # Errors
    /// [`Error::Kind`](crate::Error::Kind) where `x` is a tuple.
    pub fn convert(&self, x: Value, element_type: ElementType) -> Result<Value> {
        let shape = self.array("convert", x)?.with_element_type(element_type);
        self.push(Op::Plain("convert"), shape.into(), &[x])
    }

    /// Takes each element's bits for an element of another type of the same width.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where the widths differ, or one type alone
    /// is `pred`.
    pub fn bitcast_convert(&self, x: Value, element_type: ElementType) -> Result<Value> {
        let from = self.array("bitcast-convert", x)?;
        let context = Context {
            op: "bitcast-convert",
            operands: &[&from],
        };
        let pred = |t| t == ElementType::Pred;
        if from.element_type.size() != element_type.size()
            || pred(from.element_type) != pred(element_type)
        {
            return Err(context.element_type(format!("{element_type} has another width")));
        }
        let shape = from.clone().with_element_type(element_type);
        self.push(Op::Plain("bitcast-convert"), shape.into(), &[x])
    }

    /// Rounds floats to the nearest value of a format of fewer bits, without changing their type.
    /// Unlike a pair of [`Builder::convert`], which compilers may drop as excess precision, this
    /// stays.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where `x` is no float, or the format has
    /// no exponent.
    pub fn reduce_precision(
        &self,
        x: Value,
        exponent_bits: i32,
        mantissa_bits: i32,
    ) -> Result<Value> {
        let shape = self.array("reduce-precision", x)?;
        let context = Context {
            op: "reduce-precision",
            operands: &[&shape],
        };
        check_domain(&context, Domain::Float)?;
        if exponent_bits < 1 || mantissa_bits < 0 {
            return Err(context.element_type(format!(
                "{exponent_bits} exponent and {mantissa_bits} mantissa bits are no float format"
            )));
        }
        let op = Op::ReducePrecision {
            exponent_bits,
            mantissa_bits,
        };
        self.push(op, shape.into(), &[x])
    }
}
