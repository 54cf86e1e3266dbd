//! `+ - * / % & | ^ << >> !` and comparisons, between tensors of one shape or with a number.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use super::Tensor;
use crate::Direction;

/// What stands beside a tensor in an operation of two operands: a tensor of the same shape, or a
/// number that is rounded to the tensor's element type first, as a Python number is beside an array
/// of JAX.
pub trait Operand<'b> {
    /// The operand as a tensor shaped like `like`.
    fn beside(self, like: Tensor<'b>) -> Tensor<'b>;
}

impl<'b> Operand<'b> for Tensor<'b> {
    fn beside(self, _: Tensor<'b>) -> Tensor<'b> {
        self
    }
}

impl<'b> Operand<'b> for f64 {
    fn beside(self, like: Tensor<'b>) -> Tensor<'b> {
        match like.shape() {
            Some(shape) => like.builder.filled(shape.element_type, &shape.dims, self),
            None => like,
        }
    }
}

macro_rules! arithmetic {
    ($($trait:ident $function:ident $method:ident;)*) => {
        $(
            impl<'b, R: Operand<'b>> $trait<R> for Tensor<'b> {
                type Output = Tensor<'b>;

                fn $function(self, rhs: R) -> Tensor<'b> {
                    self.apply([rhs.beside(self)], |b, x, [y]| b.$method(x, y))
                }
            }

            impl<'b> $trait<Tensor<'b>> for f64 {
                type Output = Tensor<'b>;

                fn $function(self, rhs: Tensor<'b>) -> Tensor<'b> {
                    self.beside(rhs).apply([rhs], |b, x, [y]| b.$method(x, y))
                }
            }
        )*
    };
}

arithmetic! {
    Add add add;
    Sub sub sub;
    Mul mul mul;
    Div div div;
    Rem rem rem;
}

impl<'b> BitAnd for Tensor<'b> {
    type Output = Tensor<'b>;

    fn bitand(self, rhs: Self) -> Self {
        self.apply([rhs], |b, x, [y]| b.and(x, y))
    }
}

impl<'b> BitOr for Tensor<'b> {
    type Output = Tensor<'b>;

    fn bitor(self, rhs: Self) -> Self {
        self.apply([rhs], |b, x, [y]| b.or(x, y))
    }
}

impl<'b> BitXor for Tensor<'b> {
    type Output = Tensor<'b>;

    fn bitxor(self, rhs: Self) -> Self {
        self.apply([rhs], |b, x, [y]| b.xor(x, y))
    }
}

/// Moves the bits of integers to the left; zeros follow.
impl<'b> Shl<u32> for Tensor<'b> {
    type Output = Tensor<'b>;

    fn shl(self, bits: u32) -> Self {
        let bits = f64::from(bits).beside(self);
        self.apply([bits], |b, x, [bits]| b.shl(x, bits))
    }
}

/// Moves the bits of integers to the right; zeros follow, also behind a sign.
impl<'b> Shr<u32> for Tensor<'b> {
    type Output = Tensor<'b>;

    fn shr(self, bits: u32) -> Self {
        let bits = f64::from(bits).beside(self);
        self.apply([bits], |b, x, [bits]| b.shr_logical(x, bits))
    }
}

impl Not for Tensor<'_> {
    type Output = Self;

    fn not(self) -> Self {
        self.apply([], |b, x, []| b.not(x))
    }
}

impl Neg for Tensor<'_> {
    type Output = Self;

    fn neg(self) -> Self {
        self.apply([], |b, x, []| b.neg(x))
    }
}

macro_rules! comparisons {
    ($($(#[$doc:meta])* $method:ident $direction:ident;)*) => {
        impl<'b> Tensor<'b> {
            $(
                $(#[$doc])*
                pub fn $method(self, rhs: impl Operand<'b>) -> Self {
                    let rhs = rhs.beside(self);
                    self.apply([rhs], |b, x, [y]| b.compare(x, y, Direction::$direction))
                }
            )*
        }
    };
}

comparisons! {
    /// Where it equals `rhs`: pred.
    equals Eq;
    /// Where it is less than `rhs`: pred.
    less Lt;
    /// Where it is at most `rhs`: pred.
    at_most Le;
    /// Where it is greater than `rhs`: pred.
    greater Gt;
    /// Where it is at least `rhs`: pred.
    at_least Ge;
}
