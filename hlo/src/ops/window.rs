//! Reductions over a window that moves along the array.

use crate::check::Context;
use crate::instruction::Op;
use crate::{BinaryOp, Builder, Computation, Result, Shape, Value};

/// The window along one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowDim {
    /// How many elements the window holds.
    pub size: i64,
    /// How far it moves from one result to the next.
    pub stride: i64,
    /// How many copies of the init stand before the first element.
    pub padding_low: i64,
    /// How many copies of the init stand after the last element.
    pub padding_high: i64,
}

impl Default for WindowDim {
    /// A window of one element at each element.
    fn default() -> Self {
        Self {
            size: 1,
            stride: 1,
            padding_low: 0,
            padding_high: 0,
        }
    }
}

impl Builder {
    /// Reduces the elements in a window at each of its places, one [`WindowDim`] per dimension.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where `init` is of another type,
    /// [`Error::Shape`](crate::Error::Shape) where it is no scalar or the window exceeds the padded
    /// size, [`Error::Dimensions`](crate::Error::Dimensions) where `x` is a scalar, there is not
    /// one window per dimension, or a size or stride is below 1 or a padding below 0,
    /// [`Error::Computation`](crate::Error::Computation) where `reducer` is not one of two scalars.
    pub fn reduce_window(
        &self,
        x: Value,
        init: Value,
        window: &[WindowDim],
        reducer: &Computation,
    ) -> Result<Value> {
        const OP: &str = "reduce-window";
        let (shape, start) = (self.array(OP, x)?, self.array(OP, init)?);
        let context = Context {
            op: OP,
            operands: &[&shape, &start],
        };
        context.same_element_type()?;
        if !start.is_scalar() {
            return Err(context.shape("the init must be a scalar"));
        }
        context.one_per_dim("window", window.len(), shape.rank())?;
        if shape.is_scalar() {
            // XLA takes it, but its simplifier then forgets the init.
            return Err(context.dimensions("a scalar has no dimension to move along"));
        }
        let mut dims = Vec::with_capacity(window.len());
        for (w, &size) in window.iter().zip(&shape.dims) {
            if w.size < 1 || w.stride < 1 || w.padding_low < 0 || w.padding_high < 0 {
                return Err(context.dimensions(format!("{w:?} is no window")));
            }
            let places = size
                .checked_add(w.padding_low)
                .and_then(|size| size.checked_add(w.padding_high))
                .and_then(|size| size.checked_sub(w.size))
                .filter(|&room| room >= 0)
                .map(|room| room / w.stride + 1);
            dims.push(places.ok_or_else(|| {
                context.shape(format!("{w:?} exceeds a size of {size} with its padding"))
            })?);
        }
        let scalar = Shape::from(&start);
        context.computation(reducer, &[scalar.clone(), scalar.clone()], &scalar)?;
        let op = Op::ReduceWindow {
            window: window.to_vec(),
        };
        let result = Shape::array(shape.element_type, &dims);
        self.push_calling(op, result, &[x, init], &[reducer])
    }

    /// The sum of all elements up to and with each one along `dim`, in the operand's own type.
    ///
    /// # Errors
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operand's.
    pub fn cumsum(&self, x: Value, dim: i64) -> Result<Value> {
        let shape = self.array("reduce-window", x)?;
        let context = Context {
            op: "reduce-window",
            operands: &[&shape],
        };
        let at = context.dim("dimension", dim, shape.rank())?;
        let size = context.size("dimension", dim, &shape.dims)?;
        if size < 1 {
            return Ok(x);
        }
        let mut window = vec![WindowDim::default(); shape.rank()];
        if let Some(w) = window.get_mut(at) {
            (w.size, w.padding_low) = (size, size - 1);
        }
        let zero = self.scalar(shape.element_type, 0.0)?;
        let add = Computation::binary(BinaryOp::Add, shape.element_type)?;
        self.reduce_window(x, zero, &window, &add)
    }
}
