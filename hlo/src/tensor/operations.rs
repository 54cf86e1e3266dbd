//! The builder's operations as methods of tensors.

use super::{Operand, Tensor};
use crate::{
    BinaryOp, Computation, CustomCallOptions, DotDims, ElementType, Precision, Shape, Value,
};

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident;)*) => {
        impl Tensor<'_> {
            $(
                $(#[$doc])*
                pub fn $method(self) -> Self {
                    self.apply([], |b, x, []| b.$method(x))
                }
            )*
        }
    };
}

unary! {
    /// `e^x`.
    exp;
    /// The natural logarithm.
    log;
    /// The square root.
    sqrt;
    /// The hyperbolic tangent.
    tanh;
    /// The error function.
    erf;
    /// `1 / (1 + e^-x)`.
    logistic;
}

impl<'b> Tensor<'b> {
    /// The greater of each two elements.
    pub fn max(self, rhs: impl Operand<'b>) -> Self {
        self.apply([rhs.beside(self)], |b, x, [y]| b.max(x, y))
    }

    /// The lesser of each two elements.
    pub fn min(self, rhs: impl Operand<'b>) -> Self {
        self.apply([rhs.beside(self)], |b, x, [y]| b.min(x, y))
    }

    /// `on_true` where this (pred) holds, else `on_false`.
    pub fn select(self, on_true: Tensor<'b>, on_false: Tensor<'b>) -> Self {
        self.apply([on_true, on_false], |b, x, [t, f]| b.select(x, t, f))
    }

    /// The same numbers in another element type; itself where it has that type.
    pub fn convert(self, to: ElementType) -> Self {
        match self.shape() {
            Some(shape) if shape.element_type != to => self.apply([], |b, x, []| b.convert(x, to)),
            _ => self,
        }
    }

    /// The same bits as another element type of that size; itself where it has that type.
    pub fn bits_as(self, to: ElementType) -> Self {
        match self.shape() {
            Some(shape) if shape.element_type != to => {
                self.apply([], |b, x, []| b.bitcast_convert(x, to))
            }
            _ => self,
        }
    }

    /// The same elements in row-major order with other sizes.
    pub fn reshape(self, dims: &[i64]) -> Self {
        self.apply([], |b, x, []| b.reshape(x, dims))
    }

    /// Dimension `i` of the result is dimension `permutation[i]` of this.
    pub fn transpose(self, permutation: &[i64]) -> Self {
        self.apply([], |b, x, []| b.transpose(x, permutation))
    }

    /// Repeats it to the sizes `dims`; dimension `i` of this is dimension `mapping[i]` of the
    /// result.
    pub fn broadcast(self, dims: &[i64], mapping: &[i64]) -> Self {
        self.apply([], |b, x, []| b.broadcast(x, dims, mapping))
    }

    /// A scalar at every place of an array shaped like `like`.
    pub fn everywhere_in(self, like: Tensor<'b>) -> Self {
        self.broadcast(&like.dims(), &[])
    }

    /// The part of dimension `dim` from `start` up to `limit`.
    pub fn slice(self, dim: i64, start: i64, limit: i64) -> Self {
        self.apply([], |b, x, []| b.slice_dim(x, dim, start, limit))
    }

    /// These one after another along `dim`.
    pub fn concat(self, others: &[Tensor<'b>], dim: i64) -> Self {
        let all: Option<Vec<Value>> = std::iter::once(&self)
            .chain(others)
            .map(|tensor| tensor.value)
            .collect();
        match all {
            Some(all) => self.builder.tensor(self.builder.concatenate(&all, dim)),
            None => self.builder.without_value(),
        }
    }

    /// Zeros after the elements of each dimension, as many as `high` says.
    pub fn pad_high(self, high: &[i64]) -> Self {
        let none = vec![0; high.len()];
        let zero = self
            .builder
            .tensor(self.builder.scalar(self.element_type(), 0.0));
        self.apply([zero], |b, x, [zero]| b.pad(x, zero, &none, high, &none))
    }

    /// The part of these sizes that begins at `starts`, a scalar s32 a dimension. A start that
    /// leaves no room is moved back until the part fits.
    pub fn dynamic_slice(self, starts: &[Tensor<'b>], sizes: &[i64]) -> Self {
        match self.with_all(starts) {
            Some((x, starts)) => {
                let b = self.builder;
                b.tensor(b.dynamic_slice(x, &starts, sizes))
            }
            None => self.builder.without_value(),
        }
    }

    /// This with `update` in the place that begins at `starts`, a scalar s32 a dimension. A start
    /// that leaves no room for the update is moved back until it fits.
    pub fn dynamic_update(self, update: Tensor<'b>, starts: &[Tensor<'b>]) -> Self {
        match (self.with_all(starts), update.value) {
            (Some((x, starts)), Some(update)) => {
                let b = self.builder;
                b.tensor(b.dynamic_update_slice(x, update, &starts))
            }
            _ => self.builder.without_value(),
        }
    }

    /// Rows of this [rows, …] by number: `ids` of any sizes (s32) give [ids…, …].
    pub fn rows(self, ids: Tensor<'b>) -> Self {
        self.apply([ids], |b, x, [ids]| b.take_rows(x, ids))
    }

    /// The slices along `dim` by number: `ids` \[n\] (s32) give n of them.
    pub fn take(self, dim: i64, ids: Tensor<'b>) -> Self {
        self.apply([ids], |b, x, [ids]| b.take(x, dim, ids))
    }

    /// The sum over these dimensions.
    pub fn sum(self, dims: &[i64]) -> Self {
        self.apply([], |b, x, []| b.reduce_sum(x, dims))
    }

    /// The greatest over these dimensions.
    pub fn greatest(self, dims: &[i64]) -> Self {
        self.apply([], |b, x, []| b.reduce_max(x, dims))
    }

    /// Whether all hold over these dimensions.
    pub fn all(self, dims: &[i64]) -> Self {
        self.apply([], |b, x, []| b.reduce_and(x, dims))
    }

    /// The running sum along `dim`.
    pub fn cumsum(self, dim: i64) -> Self {
        self.apply([], |b, x, []| b.cumsum(x, dim))
    }

    /// The greatest along `dim` and its index (s32), the lowest on ties.
    pub fn argmax(self, dim: i64) -> (Self, Self) {
        let b = self.builder;
        let both = self.value.map(|x| b.argmax(x, dim)).transpose();
        match both {
            Ok(Some((max, index))) => (b.tensor(Ok(max)), b.tensor(Ok(index))),
            Ok(None) => (b.without_value(), b.without_value()),
            Err(error) => (b.tensor(Err(error)), b.without_value()),
        }
    }

    /// The product over the dimensions that `dims` names, in the element type `to`.
    pub fn dot(self, rhs: Tensor<'b>, dims: DotDims, to: ElementType) -> Self {
        self.apply([rhs], |b, x, [y]| {
            b.dot_general(x, y, dims, Some(to), Precision::Default)
        })
    }

    /// A function that is registered with the device's plugin, on this and the others.
    pub fn custom_call(
        self,
        target: &str,
        others: &[Tensor<'b>],
        result: impl Into<Shape>,
        options: CustomCallOptions,
    ) -> Self {
        let Some((first, others)) = self.with_all(others) else {
            return self.builder.without_value();
        };
        let mut operands = vec![first];
        operands.extend(others);
        let b = self.builder;
        b.tensor(b.custom_call(target, &operands, result, options))
    }

    /// The part of a tuple at `index`.
    pub fn element(self, index: i64) -> Self {
        self.apply([], |b, x, []| b.get_tuple_element(x, index))
    }

    /// `op` over the values that the replicas of each group have of this.
    pub fn all_reduce(self, op: BinaryOp, groups: &[Vec<i64>]) -> Self {
        let element_type = self.element_type();
        self.apply([], |b, x, []| {
            b.all_reduce(x, &Computation::binary(op, element_type)?, groups)
        })
    }

    /// The values that the replicas of each group have of this, one after another along `dim`.
    pub fn all_gather(self, dim: i64, groups: &[Vec<i64>]) -> Self {
        self.apply([], |b, x, []| b.all_gather(x, dim, groups))
    }

    fn with_all(self, others: &[Tensor<'b>]) -> Option<(Value, Vec<Value>)> {
        let others: Option<Vec<Value>> = others.iter().map(|other| other.value).collect();
        Some((self.value?, others?))
    }
}
