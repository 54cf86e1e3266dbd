//! Constants and other operations without operands.

use crate::instruction::Op;
use crate::{Builder, ElementType, Literal, Result, Shape, Value};

use crate::check::Context;

impl Builder {
    /// A constant array.
    ///
    /// # Errors
    /// None for a literal that could be made; the type is that of all operations.
    pub fn constant(&self, literal: &Literal) -> Result<Value> {
        let shape = Shape::from(literal.shape());
        self.push(Op::Constant(literal.clone()), shape, &[])
    }

    /// A constant scalar of any element type, rounded to it where it is a float; see
    /// [`Literal::scalar_of`].
    ///
    /// # Errors
    /// [`Error::Unrepresentable`](crate::Error::Unrepresentable) where an integer type cannot hold
    /// the value.
    pub fn scalar(&self, element_type: ElementType, value: f64) -> Result<Value> {
        self.constant(&Literal::scalar_of(element_type, value)?)
    }

    /// An array of one value: a constant scalar, broadcast.
    ///
    /// # Errors
    /// [`Error::Unrepresentable`](crate::Error::Unrepresentable) as [`Builder::scalar`],
    /// [`Error::InvalidShape`](crate::Error::InvalidShape) where a size is negative.
    pub fn full(&self, element_type: ElementType, dims: &[i64], value: f64) -> Result<Value> {
        let scalar = self.scalar(element_type, value)?;
        self.broadcast_scalar(scalar, dims)
    }

    /// An array whose elements are their own position along `dim`.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the array's,
    /// [`Error::ElementType`](crate::Error::ElementType) for `pred`.
    pub fn iota(&self, element_type: ElementType, dims: &[i64], dim: i64) -> Result<Value> {
        let context = Context {
            op: "iota",
            operands: &[],
        };
        if element_type == ElementType::Pred {
            return Err(context.element_type("not defined on pred"));
        }
        context.dim("iota dimension", dim, dims.len())?;
        self.push(Op::Iota { dim }, Shape::array(element_type, dims), &[])
    }
}
