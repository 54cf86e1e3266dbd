//! Reductions over dimensions by a computation.

use crate::check::{Context, without};
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Computation, Result, Shape, Value};

impl Builder {
    /// Reduces arrays of the same sizes over `dims`, together: `reducer` takes an accumulator of
    /// each, then an element of each, and gives the new accumulators (a tuple if there are
    /// several). Each accumulator starts as the scalar in `inits`, and the order of the steps is
    /// not defined.
    ///
    /// The result has the remaining dimensions; it is a tuple for several inputs.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where inputs differ in size, none is given, or an init
    /// is no scalar, [`Error::ElementType`](crate::Error::ElementType) where an init is of another
    /// type than its input, [`Error::Dimensions`](crate::Error::Dimensions) where one of `dims` is
    /// none of the inputs', or named twice, [`Error::Computation`](crate::Error::Computation) where
    /// `reducer` has another signature.
    pub fn reduce(
        &self,
        inputs: &[Value],
        inits: &[Value],
        dims: &[i64],
        reducer: &Computation,
    ) -> Result<Value> {
        let (shapes, starts) = (
            self.arrays("reduce", inputs)?,
            self.arrays("reduce", inits)?,
        );
        let list: Vec<&ArrayShape> = shapes.iter().chain(&starts).collect();
        let context = Context {
            op: "reduce",
            operands: &list,
        };
        let Some(first) = shapes.first() else {
            return Err(context.shape("needs an input"));
        };
        if shapes.len() != starts.len() {
            return Err(context.shape("inputs and inits differ in number"));
        }
        for (shape, start) in shapes.iter().zip(&starts) {
            if shape.dims != first.dims {
                return Err(context.shape("inputs differ in shape"));
            }
            if !start.is_scalar() {
                return Err(context.shape("inits must be scalars"));
            }
            if shape.element_type != start.element_type {
                return Err(context.element_type("an init is of another type than its input"));
            }
        }
        context.distinct("reduced dimensions", dims, first.rank())?;
        let scalars: Vec<Shape> = starts.iter().map(Shape::from).collect();
        let accumulators = one_or_tuple(scalars.clone());
        context.computation(reducer, &[scalars.clone(), scalars].concat(), &accumulators)?;

        let kept = without(&first.dims, dims);
        let results = shapes
            .iter()
            .map(|shape| Shape::array(shape.element_type, &kept));
        let shape = one_or_tuple(results.collect());
        let operands = [inputs, inits].concat();
        let op = Op::Reduce {
            dims: dims.to_vec(),
        };
        self.push_calling(op, shape, &operands, &[reducer])
    }
}

/// A shape by itself, several as a tuple.
pub(crate) fn one_or_tuple(mut shapes: Vec<Shape>) -> Shape {
    match shapes.len() {
        1 => shapes.remove(0),
        _ => Shape::Tuple(shapes),
    }
}
