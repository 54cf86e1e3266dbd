//! Comparing, and choosing by what came of it.

use super::elementwise::{Domain, check_domain};
use crate::check::Context;
use crate::instruction::Op;
use crate::{ArrayShape, Builder, ElementType, Result, Value};

/// How [`Builder::compare`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Equal; NaN equals nothing.
    Eq,
    /// Not equal; true where one is NaN.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Eq => "EQ",
            Self::Ne => "NE",
            Self::Lt => "LT",
            Self::Le => "LE",
            Self::Gt => "GT",
            Self::Ge => "GE",
        }
    }
}

/// What a comparison takes the bits for, by the operands' element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComparisonType {
    Float,
    Signed,
    Unsigned,
}

impl ComparisonType {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Float => "FLOAT",
            Self::Signed => "SIGNED",
            Self::Unsigned => "UNSIGNED",
        }
    }
}

impl Builder {
    /// Compares element by element; the result is `pred`.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) or [`Error::Shape`](crate::Error::Shape)
    /// where the operands differ.
    pub fn compare(&self, lhs: Value, rhs: Value, direction: Direction) -> Result<Value> {
        let (a, b) = (self.array("compare", lhs)?, self.array("compare", rhs)?);
        let context = Context {
            op: "compare",
            operands: &[&a, &b],
        };
        context.same_shape()?;
        let comparison = match a.element_type {
            t if t.is_float() => ComparisonType::Float,
            t if t.is_signed_integer() => ComparisonType::Signed,
            _ => ComparisonType::Unsigned,
        };
        let shape = a.with_element_type(ElementType::Pred);
        self.push(
            Op::Compare(direction, comparison),
            shape.into(),
            &[lhs, rhs],
        )
    }

    /// Each element from `on_true` or `on_false`, as `pred` says. All three have the same sizes.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) or [`Error::Shape`](crate::Error::Shape)
    /// where the operands do not fit.
    pub fn select(&self, pred: Value, on_true: Value, on_false: Value) -> Result<Value> {
        let values = [pred, on_true, on_false];
        let (p, t, f) = self.three("select", values)?;
        let context = Context {
            op: "select",
            operands: &[&p, &t, &f],
        };
        if p.element_type != ElementType::Pred {
            return Err(context.element_type("the first operand must be pred"));
        }
        if t.element_type != f.element_type {
            return Err(context.element_type("the branches differ in element type"));
        }
        context.same_dims()?;
        self.push(Op::Plain("select"), t.into(), &[pred, on_true, on_false])
    }

    /// `min(max(x, low), high)`; the bounds have the sizes of `x`, or are scalars.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) or [`Error::Shape`](crate::Error::Shape)
    /// where the operands do not fit.
    pub fn clamp(&self, low: Value, x: Value, high: Value) -> Result<Value> {
        let (l, shape, h) = self.three("clamp", [low, x, high])?;
        let context = Context {
            op: "clamp",
            operands: &[&l, &shape, &h],
        };
        context.same_element_type()?;
        check_domain(&context, Domain::Number)?;
        let mut operands = [low, x, high];
        for (operand, bound) in operands.iter_mut().zip([&l, &shape, &h]) {
            if bound.dims == shape.dims {
                continue;
            }
            if !bound.is_scalar() {
                return Err(context.shape("a bound is neither a scalar nor of the operand's shape"));
            }
            // XLA defines scalar bounds, but there are CPU plugins (API 0.115) that fail to compile
            // them.
            *operand = self.broadcast_scalar(*operand, &shape.dims)?;
        }
        self.push(Op::Plain("clamp"), shape.into(), &operands)
    }

    fn three(
        &self,
        op: &'static str,
        [a, b, c]: [Value; 3],
    ) -> Result<(ArrayShape, ArrayShape, ArrayShape)> {
        Ok((self.array(op, a)?, self.array(op, b)?, self.array(op, c)?))
    }
}
