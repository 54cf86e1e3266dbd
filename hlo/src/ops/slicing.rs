//! Parts of arrays, at places known when compiling or computed on the device.

use crate::check::Context;
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Result, Shape, Value};

impl Builder {
    /// The elements from `starts` to below `limits`, every `strides`-th one, per dimension.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where a list has not one entry per
    /// dimension, or not `0 <= start <= limit <= size` and `stride >= 1`.
    pub fn slice(
        &self,
        x: Value,
        starts: &[i64],
        limits: &[i64],
        strides: &[i64],
    ) -> Result<Value> {
        let shape = self.array("slice", x)?;
        let context = Context {
            op: "slice",
            operands: &[&shape],
        };
        for (what, list) in [("starts", starts), ("limits", limits), ("strides", strides)] {
            context.one_per_dim(what, list.len(), shape.rank())?;
        }
        let mut dims = Vec::with_capacity(shape.rank());
        for (((&size, &start), &limit), &stride) in
            shape.dims.iter().zip(starts).zip(limits).zip(strides)
        {
            if start < 0 || start > limit || limit > size || stride < 1 {
                return Err(context.dimensions(format!(
                    "no part [{start}:{limit}:{stride}] of a size of {size}"
                )));
            }
            // Rounded up without adding first, which could overflow for a stride near the limit of
            // 63 bits.
            let length = limit - start;
            dims.push(length / stride + i64::from(length % stride != 0));
        }
        let op = Op::Slice {
            starts: starts.to_vec(),
            limits: limits.to_vec(),
            strides: strides.to_vec(),
        };
        self.push(op, Shape::array(shape.element_type, &dims), &[x])
    }

    /// The elements from `start` to below `limit` of one dimension, and all of the others.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operand's, or not
    /// `0 <= start <= limit <= size`.
    pub fn slice_dim(&self, x: Value, dim: i64, start: i64, limit: i64) -> Result<Value> {
        let shape = self.array("slice", x)?;
        let context = Context {
            op: "slice",
            operands: &[&shape],
        };
        let at = context.dim("dimension", dim, shape.rank())?;
        let mut starts = vec![0; shape.rank()];
        let mut limits = shape.dims.clone();
        if let (Some(s), Some(l)) = (starts.get_mut(at), limits.get_mut(at)) {
            (*s, *l) = (start, limit);
        }
        self.slice(x, &starts, &limits, &vec![1; shape.rank()])
    }

    /// A part of the sizes given at scalar positions, one per dimension, computed on the device. A
    /// position from which the part would pass the end is moved back until it fits.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where a list has not one entry per
    /// dimension, [`Error::Shape`](crate::Error::Shape) where a size is not within the operand's or
    /// a start no scalar, [`Error::ElementType`](crate::Error::ElementType) where starts are not
    /// integers of one type.
    pub fn dynamic_slice(&self, x: Value, starts: &[Value], sizes: &[i64]) -> Result<Value> {
        let shape = self.array("dynamic-slice", x)?;
        let start_shapes = self.arrays("dynamic-slice", starts)?;
        let mut list = vec![&shape];
        list.extend(&start_shapes);
        let context = Context {
            op: "dynamic-slice",
            operands: &list,
        };
        check_starts(&context, &start_shapes, shape.rank())?;
        context.one_per_dim("sizes", sizes.len(), shape.rank())?;
        check_within(&context, sizes, &shape.dims)?;
        let operands: Vec<Value> = [x].iter().chain(starts).copied().collect();
        let op = Op::DynamicSlice {
            sizes: sizes.to_vec(),
        };
        self.push(op, Shape::array(shape.element_type, sizes), &operands)
    }

    /// The operand with `update` written over a part of it, at scalar positions as
    /// [`Builder::dynamic_slice`] takes them.
    ///
    /// # Errors
    /// As [`Builder::dynamic_slice`], with the sizes those of `update`.
    pub fn dynamic_update_slice(&self, x: Value, update: Value, starts: &[Value]) -> Result<Value> {
        const OP: &str = "dynamic-update-slice";
        let (shape, part) = (self.array(OP, x)?, self.array(OP, update)?);
        let start_shapes = self.arrays(OP, starts)?;
        let mut list = vec![&shape, &part];
        list.extend(&start_shapes);
        let context = Context {
            op: OP,
            operands: &list,
        };
        if shape.element_type != part.element_type {
            return Err(context.element_type("the update is of another element type"));
        }
        check_starts(&context, &start_shapes, shape.rank())?;
        context.one_per_dim("the update's shape", part.rank(), shape.rank())?;
        check_within(&context, &part.dims, &shape.dims)?;
        let operands: Vec<Value> = [x, update].iter().chain(starts).copied().collect();
        self.push(Op::Plain(OP), shape.into(), &operands)
    }
}

fn check_starts(context: &Context<'_>, starts: &[ArrayShape], rank: usize) -> Result<()> {
    context.one_per_dim("starts", starts.len(), rank)?;
    if starts.iter().any(|start| !start.is_scalar()) {
        return Err(context.shape("starts must be scalars"));
    }
    let one_type = starts
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.element_type == b.element_type));
    if !one_type || starts.iter().any(|start| !start.element_type.is_integer()) {
        return Err(context.element_type("starts must be integers of one type"));
    }
    Ok(())
}

fn check_within(context: &Context<'_>, sizes: &[i64], dims: &[i64]) -> Result<()> {
    if sizes
        .iter()
        .zip(dims)
        .all(|(&size, &dim)| (0..=dim).contains(&size))
    {
        return Ok(());
    }
    Err(context.shape(format!("a part of sizes {sizes:?} is not within {dims:?}")))
}
