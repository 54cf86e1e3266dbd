//! Sorting.

use super::reduce::one_or_tuple;
use crate::check::Context;
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Computation, ElementType, Result, Shape, Value};

impl Builder {
    /// Sorts along `dim`, moving the elements of all operands together. `less` takes two scalars of
    /// each operand in turn (`a0, a1, b0, b1, …`) and says whether the first ones come before the
    /// second.
    ///
    /// The result is a tuple for several operands.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where operands differ in size or there is none,
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of theirs,
    /// [`Error::Computation`](crate::Error::Computation) where `less` has another signature.
    pub fn sort(
        &self,
        operands: &[Value],
        dim: i64,
        stable: bool,
        less: &Computation,
    ) -> Result<Value> {
        let shapes = self.arrays("sort", operands)?;
        let list: Vec<&ArrayShape> = shapes.iter().collect();
        let context = Context {
            op: "sort",
            operands: &list,
        };
        let Some(first) = shapes.first() else {
            return Err(context.shape("needs an operand"));
        };
        context.same_dims()?;
        context.dim("dimension", dim, first.rank())?;
        let scalars = shapes.iter().flat_map(|shape| {
            let scalar = Shape::scalar(shape.element_type);
            [scalar.clone(), scalar]
        });
        let parameters: Vec<Shape> = scalars.collect();
        context.computation(less, &parameters, &Shape::scalar(ElementType::Pred))?;
        let result = one_or_tuple(shapes.iter().map(Shape::from).collect());
        self.push_calling(Op::Sort { dim, stable }, result, operands, &[less])
    }
}
