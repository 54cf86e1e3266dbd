//! Handles with operators: arithmetic that reads like arithmetic.
//!
//! A [`Tensor`] is a [`Value`] with the builder that it belongs to. Its operations do not return
//! results: the first one that fails is kept by the builder, with the scope that it failed in, and
//! whatever depends on it does nothing. [`Builder::finish`](crate::Builder::finish) returns that
//! first error, so a model can be written without a `?` a line and nothing is lost.

mod operations;
mod operators;

pub use operators::Operand;

use crate::{ArrayShape, Builder, ElementType, Error, Literal, Result, Shape, Value};

/// A value of a builder's computation, with operators.
///
/// `Copy`, like the value that it stands for. After the first failed operation of the builder,
/// tensors that depend on it have no value: they are of no shape, and operations on them are not
/// added.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'b> {
    builder: &'b Builder,
    value: Option<Value>,
}

impl Builder {
    /// The tensor of a result. The first error is kept until [`finish`](Builder::finish).
    pub fn tensor(&self, result: Result<Value>) -> Tensor<'_> {
        let value = match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(error);
                None
            }
        };
        Tensor {
            builder: self,
            value,
        }
    }

    /// The next parameter; see [`parameter`](Builder::parameter).
    pub fn input(&self, name: &str, shape: impl Into<Shape>) -> Tensor<'_> {
        self.tensor(self.parameter(name, shape))
    }

    /// A constant.
    pub fn literal(&self, literal: &Literal) -> Tensor<'_> {
        self.tensor(self.constant(literal))
    }

    /// An array of these sizes with one number everywhere.
    pub fn filled(&self, element_type: ElementType, dims: &[i64], value: f64) -> Tensor<'_> {
        self.tensor(match dims {
            [] => self.scalar(element_type, value),
            dims => self.full(element_type, dims, value),
        })
    }

    /// A scalar s32.
    pub fn integer(&self, value: i64) -> Tensor<'_> {
        self.tensor(self.scalar(ElementType::S32, value as f64))
    }

    /// An array of pred that is false everywhere.
    pub fn falses(&self, dims: &[i64]) -> Tensor<'_> {
        self.filled(ElementType::Pred, dims, 0.0)
    }

    /// An s32 array whose elements are their own index along `dim`.
    pub fn indices(&self, dims: &[i64], dim: i64) -> Tensor<'_> {
        self.tensor(self.iota(ElementType::S32, dims, dim))
    }

    /// The number of the replica that runs the program, a scalar u32.
    pub fn replica(&self) -> Tensor<'_> {
        self.tensor(self.replica_id())
    }

    /// A tuple of these.
    pub fn tuple_of<'b>(&'b self, parts: &[Tensor<'b>]) -> Tensor<'b> {
        let parts: Option<Vec<Value>> = parts.iter().map(|part| part.value).collect();
        match parts {
            Some(parts) => self.tensor(self.tuple(&parts)),
            None => self.without_value(),
        }
    }

    /// Runs `body` on a state of several values as long as `condition` holds of it. Each closure
    /// gets a builder of its own: the state is all that it sees of the computation around it.
    ///
    /// `condition` gives a scalar pred, `body` as many values as the state has, of the same shapes.
    pub fn loop_while<'b>(
        &'b self,
        state: Vec<Tensor<'b>>,
        condition: impl for<'c> FnOnce(&'c Builder, Vec<Tensor<'c>>) -> Tensor<'c>,
        body: impl for<'c> FnOnce(&'c Builder, Vec<Tensor<'c>>) -> Vec<Tensor<'c>>,
    ) -> Vec<Tensor<'b>> {
        let count = state.len();
        let Some(initial) = self.tuple_of(&state).value else {
            return vec![self.without_value(); count];
        };
        let end = self.while_with(
            initial,
            |b, state| condition(b, b.parts_of(state, count)).value(),
            |b, state| b.tuple_of(&body(b, b.parts_of(state, count))).value(),
        );
        match end {
            Ok(end) => self.parts_of(end, count),
            Err(error) => {
                self.fail(error);
                vec![self.without_value(); count]
            }
        }
    }

    /// The first `count` parts of a tuple.
    fn parts_of(&self, tuple: Value, count: usize) -> Vec<Tensor<'_>> {
        let tuple = self.tensor(Ok(tuple));
        (0..count as i64)
            .map(|index| tuple.element(index))
            .collect()
    }

    /// A tensor that depends on a failed operation.
    fn without_value(&self) -> Tensor<'_> {
        Tensor {
            builder: self,
            value: None,
        }
    }
}

impl<'b> Tensor<'b> {
    /// The builder that it belongs to.
    pub fn builder(self) -> &'b Builder {
        self.builder
    }

    /// Its value, for the builder's own operations.
    ///
    /// # Errors
    /// The first error of the builder, where this depends on it.
    pub fn value(self) -> Result<Value> {
        self.value.ok_or_else(|| {
            // Only a failure leaves a tensor without a value.
            let failure = self.builder.failure();
            failure.unwrap_or(Error::ForeignValue {
                op: "value",
                builder: self.builder.name().to_owned(),
            })
        })
    }

    /// Its shape; none where it is a tuple or depends on a failed operation.
    pub fn shape(self) -> Option<ArrayShape> {
        self.builder.array_shape(self.value?).ok()
    }

    /// Its element type; pred where it has none.
    pub fn element_type(self) -> ElementType {
        self.shape()
            .map_or(ElementType::Pred, |shape| shape.element_type)
    }

    /// Its sizes; none at all where it depends on a failed operation.
    pub fn dims(self) -> Vec<i64> {
        self.shape().map_or_else(Vec::new, |shape| shape.dims)
    }

    /// Its sizes, of which it must have `N`. Where it depends on a failed operation they are ones.
    pub fn sizes<const N: usize>(self) -> [i64; N] {
        let dims = self.dims();
        <[i64; N]>::try_from(dims).unwrap_or_else(|dims: Vec<i64>| {
            if let Some(shape) = self.shape() {
                self.builder.fail(Error::Dimensions {
                    op: "sizes",
                    operands: shape.to_string(),
                    reason: format!("expected {N} dimensions, got {}", dims.len()),
                });
            }
            [1; N]
        })
    }

    /// The size of a dimension; 1 where it depends on a failed operation.
    pub fn size(self, dim: usize) -> i64 {
        let Some(shape) = self.shape() else { return 1 };
        shape.dims.get(dim).copied().unwrap_or_else(|| {
            self.builder.fail(Error::Dimensions {
                op: "size",
                operands: shape.to_string(),
                reason: format!("has no dimension {dim}"),
            });
            1
        })
    }

    /// The result of an operation of the builder on this tensor's value and the others'.
    fn apply<const N: usize>(
        self,
        others: [Tensor<'b>; N],
        operation: impl FnOnce(&'b Builder, Value, [Value; N]) -> Result<Value>,
    ) -> Tensor<'b> {
        let builder = self.builder;
        let Some(value) = self.value else {
            return builder.without_value();
        };
        let mut values = [value; N];
        for (slot, other) in values.iter_mut().zip(others) {
            match other.value {
                Some(value) => *slot = value,
                None => return builder.without_value(),
            }
        }
        builder.tensor(operation(builder, value, values))
    }
}
