//! Reductions that are wanted often.

use crate::check::Context;
use crate::{
    BinaryOp, Builder, Computation, Direction, ElementType, Literal, Result, Shape, Value,
};

impl Builder {
    /// The sum over `dims`, in the operand's own type.
    ///
    /// # Errors
    /// As [`Builder::reduce`].
    pub fn reduce_sum(&self, x: Value, dims: &[i64]) -> Result<Value> {
        let zero = self.scalar(self.array("reduce", x)?.element_type, 0.0)?;
        self.reduce_by(BinaryOp::Add, x, zero, dims)
    }

    /// The greatest element over `dims`; minus infinity (the least integer) of nothing. NaN as in
    /// [`BinaryOp::Max`].
    ///
    /// # Errors
    /// As [`Builder::reduce`].
    pub fn reduce_max(&self, x: Value, dims: &[i64]) -> Result<Value> {
        let lowest = Literal::lowest(self.array("reduce", x)?.element_type);
        self.reduce_by(BinaryOp::Max, x, self.constant(&lowest)?, dims)
    }

    /// The least element over `dims`; infinity (the greatest integer) of nothing. NaN as in
    /// [`BinaryOp::Min`].
    ///
    /// # Errors
    /// As [`Builder::reduce`].
    pub fn reduce_min(&self, x: Value, dims: &[i64]) -> Result<Value> {
        let highest = Literal::highest(self.array("reduce", x)?.element_type);
        self.reduce_by(BinaryOp::Min, x, self.constant(&highest)?, dims)
    }

    /// Whether all elements over `dims` are true.
    ///
    /// # Errors
    /// As [`Builder::reduce`], and [`Error::ElementType`](crate::Error::ElementType) where `x` is
    /// not `pred`.
    pub fn reduce_and(&self, x: Value, dims: &[i64]) -> Result<Value> {
        self.check_pred(x)?;
        let start = self.constant(&Literal::scalar(true))?;
        self.reduce_by(BinaryOp::And, x, start, dims)
    }

    /// Whether any element over `dims` is true.
    ///
    /// # Errors
    /// As [`Builder::reduce`], and [`Error::ElementType`](crate::Error::ElementType) where `x` is
    /// not `pred`.
    pub fn reduce_or(&self, x: Value, dims: &[i64]) -> Result<Value> {
        self.check_pred(x)?;
        let start = self.constant(&Literal::scalar(false))?;
        self.reduce_by(BinaryOp::Or, x, start, dims)
    }

    /// The greatest element along `dim` and its position (`s32`): of equal ones the first, and the
    /// first NaN where there is one, as `jax.numpy.argmax` has it.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) for `pred`,
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operand's,
    /// [`Error::Shape`](crate::Error::Shape) where its size is 0 or beyond `s32`.
    pub fn argmax(&self, x: Value, dim: i64) -> Result<(Value, Value)> {
        let shape = self.array("argmax", x)?;
        let context = Context {
            op: "argmax",
            operands: &[&shape],
        };
        let element_type = shape.element_type;
        if element_type == ElementType::Pred {
            return Err(context.element_type("not defined on pred"));
        }
        let size = context.size("dimension", dim, &shape.dims)?;
        if !(1..=i64::from(i32::MAX)).contains(&size) {
            return Err(context.shape(format!("dimension {dim} has no position in s32")));
        }
        let positions = self.iota(ElementType::S32, &shape.dims, dim)?;
        // The position after any other, so that an element equal to the start still comes before
        // it.
        let inits = [
            self.constant(&Literal::lowest(element_type))?,
            self.constant(&Literal::scalar(i32::MAX))?,
        ];
        let reducer = argmax_reducer(element_type)?;
        let pair = self.reduce(&[x, positions], &inits, &[dim], &reducer)?;
        Ok((
            self.get_tuple_element(pair, 0)?,
            self.get_tuple_element(pair, 1)?,
        ))
    }

    fn reduce_by(&self, op: BinaryOp, x: Value, init: Value, dims: &[i64]) -> Result<Value> {
        let element_type = self.array("reduce", x)?.element_type;
        self.reduce(&[x], &[init], dims, &Computation::binary(op, element_type)?)
    }

    fn check_pred(&self, x: Value) -> Result<()> {
        let shape = self.array("reduce", x)?;
        if shape.element_type == ElementType::Pred {
            return Ok(());
        }
        let context = Context {
            op: "reduce",
            operands: &[&shape],
        };
        Err(context.element_type("defined on pred only"))
    }
}

/// Of two (value, position) pairs the one that comes first in the order: NaN before numbers,
/// greater before lesser, then the lower position. It is associative and commutative, as a
/// reduction in any order needs.
fn argmax_reducer(element_type: ElementType) -> Result<Computation> {
    let b = Builder::new(&format!("argmax_{element_type}"));
    let (value, position) = (Shape::scalar(element_type), Shape::scalar(ElementType::S32));
    let (v0, p0) = (b.parameter("v0", &value)?, b.parameter("p0", &position)?);
    let (v1, p1) = (b.parameter("v1", &value)?, b.parameter("p1", &position)?);
    let mut greater = b.compare(v0, v1, Direction::Gt)?;
    let mut equal = b.compare(v0, v1, Direction::Eq)?;
    if element_type.is_float() {
        let (nan0, nan1) = (
            b.compare(v0, v0, Direction::Ne)?,
            b.compare(v1, v1, Direction::Ne)?,
        );
        greater = b.or(greater, b.and(nan0, b.not(nan1)?)?)?;
        equal = b.or(equal, b.and(nan0, nan1)?)?;
    }
    let earlier = b.compare(p0, p1, Direction::Lt)?;
    let first = b.or(greater, b.and(equal, earlier)?)?;
    let root = b.tuple(&[b.select(first, v0, v1)?, b.select(first, p0, p1)?])?;
    b.finish(root)
}
