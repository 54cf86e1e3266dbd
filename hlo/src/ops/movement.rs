//! Operations that place elements anew without computing on them.

use crate::check::Context;
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Result, Shape, Value};

impl Builder {
    /// Repeats an array: its dimension `i` becomes dimension `mapping[i]` of the result, with the
    /// same size; along the other dimensions the elements repeat. A size of 1 is not stretched.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `mapping` does not rise or is of
    /// another length than the operand's rank, [`Error::Shape`](crate::Error::Shape) where sizes
    /// differ.
    pub fn broadcast(&self, x: Value, dims: &[i64], mapping: &[i64]) -> Result<Value> {
        let shape = self.array("broadcast", x)?;
        let context = Context {
            op: "broadcast",
            operands: &[&shape],
        };
        context.one_per_dim("mapping", mapping.len(), shape.rank())?;
        context.rising("mapping", mapping, dims.len())?;
        for (&to, &size) in mapping.iter().zip(&shape.dims) {
            let target = context.size("mapping", to, dims)?;
            if target != size {
                return Err(context.shape(format!(
                    "mapping {mapping:?} puts a size of {size} onto dimension {to} of {dims:?}"
                )));
            }
        }
        let result = Shape::array(shape.element_type, dims);
        self.push(Op::Dimensions("broadcast", mapping.to_vec()), result, &[x])
    }

    /// An array that repeats one scalar.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `x` is no scalar.
    pub fn broadcast_scalar(&self, x: Value, dims: &[i64]) -> Result<Value> {
        self.broadcast(x, dims, &[])
    }

    /// The same elements in row-major order under other sizes.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the number of elements changes.
    pub fn reshape(&self, x: Value, dims: &[i64]) -> Result<Value> {
        let shape = self.array("reshape", x)?;
        let context = Context {
            op: "reshape",
            operands: &[&shape],
        };
        let result = Shape::array(shape.element_type, dims);
        result.validate("reshape")?;
        if result.byte_size() != shape.byte_size() {
            return Err(context.shape(format!("{result} has another number of elements")));
        }
        self.push(Op::Plain("reshape"), result, &[x])
    }

    /// Dimension `i` of the result is dimension `permutation[i]` of the operand.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `permutation` is none of the operand's
    /// dimensions.
    pub fn transpose(&self, x: Value, permutation: &[i64]) -> Result<Value> {
        let shape = self.array("transpose", x)?;
        let context = Context {
            op: "transpose",
            operands: &[&shape],
        };
        context.one_per_dim("permutation", permutation.len(), shape.rank())?;
        context.distinct("permutation", permutation, shape.rank())?;
        let mut dims = Vec::with_capacity(permutation.len());
        for &from in permutation {
            dims.push(context.size("permutation", from, &shape.dims)?);
        }
        let result = Shape::array(shape.element_type, &dims);
        self.push(
            Op::Dimensions("transpose", permutation.to_vec()),
            result,
            &[x],
        )
    }

    /// Turns the order of the elements around along `dims`.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where one of `dims` is none of the
    /// operand's, or named twice.
    pub fn reverse(&self, x: Value, dims: &[i64]) -> Result<Value> {
        let shape = self.array("reverse", x)?;
        let context = Context {
            op: "reverse",
            operands: &[&shape],
        };
        context.distinct("reversed dimensions", dims, shape.rank())?;
        self.push(Op::Dimensions("reverse", dims.to_vec()), shape.into(), &[x])
    }

    /// Joins arrays along `dim`; the other sizes are equal.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where there is no operand or the other sizes differ,
    /// [`Error::ElementType`](crate::Error::ElementType) where element types differ,
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operands'.
    pub fn concatenate(&self, operands: &[Value], dim: i64) -> Result<Value> {
        let shapes = self.arrays("concatenate", operands)?;
        let list: Vec<&ArrayShape> = shapes.iter().collect();
        let context = Context {
            op: "concatenate",
            operands: &list,
        };
        let Some(first) = shapes.first() else {
            return Err(context.shape("needs an operand"));
        };
        context.same_element_type()?;
        let at = context.dim("dimension", dim, first.rank())?;
        let mut dims = first.dims.clone();
        let mut total = 0i64;
        for shape in &shapes {
            let size = context.size("dimension", dim, &shape.dims)?;
            total = total
                .checked_add(size)
                .ok_or_else(|| context.shape("the joined size passes 63 bits"))?;
            if let Some(slot) = dims.get_mut(at) {
                *slot = size;
            }
            if dims != shape.dims {
                return Err(context.shape(format!("sizes differ beside dimension {dim}")));
            }
        }
        if let Some(slot) = dims.get_mut(at) {
            *slot = total;
        }
        let result = Shape::array(first.element_type, &dims);
        self.push(Op::Dimensions("concatenate", vec![dim]), result, operands)
    }

    /// Puts `low` elements of `value` before, `high` after and `interior` between the elements of
    /// each dimension. A negative `low` or `high` cuts elements off.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where `value` is of another type,
    /// [`Error::Shape`](crate::Error::Shape) where it is no scalar or a size would be negative,
    /// [`Error::Dimensions`](crate::Error::Dimensions) where a list has not one entry per dimension
    /// or `interior` has a negative one.
    pub fn pad(
        &self,
        x: Value,
        value: Value,
        low: &[i64],
        high: &[i64],
        interior: &[i64],
    ) -> Result<Value> {
        let (shape, fill) = (self.array("pad", x)?, self.array("pad", value)?);
        let context = Context {
            op: "pad",
            operands: &[&shape, &fill],
        };
        context.same_element_type()?;
        if !fill.is_scalar() {
            return Err(context.shape("the padding value must be a scalar"));
        }
        for (what, list) in [("low", low), ("high", high), ("interior", interior)] {
            context.one_per_dim(what, list.len(), shape.rank())?;
        }
        let mut dims = Vec::with_capacity(shape.rank());
        for (((&size, &low), &high), &interior) in
            shape.dims.iter().zip(low).zip(high).zip(interior)
        {
            if interior < 0 {
                return Err(context.dimensions("interior padding is negative"));
            }
            let padded = interior
                .checked_mul((size - 1).max(0))
                .and_then(|between| between.checked_add(size))
                .and_then(|size| size.checked_add(low))
                .and_then(|size| size.checked_add(high))
                .filter(|&size| size >= 0);
            dims.push(padded.ok_or_else(|| context.shape("a padded size is out of range"))?);
        }
        if dims.is_empty() {
            // A scalar has no side to pad, and HLO text no way to say so.
            return Ok(x);
        }
        let op = Op::Pad {
            low: low.to_vec(),
            high: high.to_vec(),
            interior: interior.to_vec(),
        };
        self.push(op, Shape::array(shape.element_type, &dims), &[x, value])
    }
}
