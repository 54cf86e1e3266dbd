//! Operations on each element by itself.

use crate::check::Context;
use crate::instruction::Op;
use crate::{Builder, ElementType, Result, Value};

/// Which element types an operation is defined on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domain {
    Float,
    /// Floats and signed integers.
    Signed,
    /// Floats and integers.
    Number,
    Integer,
    /// Integers and `pred`.
    Bits,
    /// Everything.
    Any,
}

impl Domain {
    fn holds(self, element_type: ElementType) -> bool {
        match self {
            Self::Float => element_type.is_float(),
            Self::Signed => element_type.is_float() || element_type.is_signed_integer(),
            Self::Number => element_type != ElementType::Pred,
            Self::Integer => element_type.is_integer(),
            Self::Bits => !element_type.is_float(),
            Self::Any => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Float => "floats",
            Self::Signed => "floats and signed integers",
            Self::Number => "floats and integers",
            Self::Integer => "integers",
            Self::Bits => "integers and pred",
            Self::Any => "all types",
        }
    }
}

pub(crate) fn check_domain(context: &Context<'_>, domain: Domain) -> Result<()> {
    if context
        .operands
        .iter()
        .all(|shape| domain.holds(shape.element_type))
    {
        return Ok(());
    }
    Err(context.element_type(format!("defined on {} only", domain.name())))
}

macro_rules! operations {
    (
        $(#[$meta:meta])* enum $name:ident by $by:ident $operands:tt;
        $($(#[$doc:meta])* $variant:ident $method:ident $opcode:literal $domain:ident;)*
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every operation of this kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The operation's name in HLO.
            pub const fn opcode(self) -> &'static str {
                match self { $(Self::$variant => $opcode,)* }
            }

            const fn domain(self) -> Domain {
                match self { $(Self::$variant => Domain::$domain,)* }
            }
        }

        impl Builder {
            $(operations!(@method $(#[$doc])* $method $name $variant $by $operands);)*
        }
    };
    (
        @method $(#[$doc:meta])*
        $method:ident $name:ident $variant:ident $by:ident ($($operand:ident),+)
    ) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Error::ElementType`](crate::Error::ElementType) where the operation is not defined on
        /// the element type, [`Error::Shape`](crate::Error::Shape) where operands differ in shape.
        pub fn $method(&self, $($operand: Value),+) -> Result<Value> {
            self.$by($name::$variant, $($operand),+)
        }
    };
}

operations! {
    /// An operation on one array that keeps its sizes.
    enum UnaryOp by unary(x);
    /// `|x|`.
    Abs abs "abs" Signed;
    /// `-x`; unsigned integers wrap.
    Neg neg "negate" Number;
    /// -1, 0 or 1 by the sign of `x`; NaN stays NaN.
    Sign sign "sign" Signed;
    /// `e^x`.
    Exp exp "exponential" Float;
    /// `e^x - 1`, exact near 0.
    Expm1 expm1 "exponential-minus-one" Float;
    /// The natural logarithm.
    Log log "log" Float;
    /// `log(1 + x)`, exact near 0.
    Log1p log1p "log-plus-one" Float;
    /// The square root.
    Sqrt sqrt "sqrt" Float;
    /// `1 / sqrt(x)`.
    Rsqrt rsqrt "rsqrt" Float;
    /// The cubic root.
    Cbrt cbrt "cbrt" Float;
    /// The hyperbolic tangent.
    Tanh tanh "tanh" Float;
    /// The sine of an angle in radians.
    Sin sin "sine" Float;
    /// The cosine of an angle in radians.
    Cos cos "cosine" Float;
    /// The greatest whole number that is not above `x`.
    Floor floor "floor" Float;
    /// The least whole number that is not below `x`.
    Ceil ceil "ceil" Float;
    /// The nearest whole number, the even one of two.
    RoundNearestEven round_nearest_even "round-nearest-even" Float;
    /// `1 / (1 + e^-x)`.
    Logistic logistic "logistic" Float;
    /// The error function.
    Erf erf "erf" Float;
    /// The complement of each bit, or of a `pred`.
    Not not "not" Bits;
    /// Whether `x` is neither NaN nor infinite, as `pred`.
    IsFinite is_finite "is-finite" Float;
    /// The number of bits that are set.
    Popcnt popcnt "popcnt" Integer;
    /// The number of zero bits above the highest that is set.
    Clz clz "count-leading-zeros" Integer;
    /// `x`, in a buffer of its own.
    Copy copy "copy" Any;
}

operations! {
    /// An operation on two arrays of one shape.
    enum BinaryOp by binary(lhs, rhs);
    /// `lhs + rhs`; integers wrap, `pred` is or.
    Add add "add" Any;
    /// `lhs - rhs`; integers wrap.
    Sub sub "subtract" Number;
    /// `lhs * rhs`; integers wrap, `pred` is and.
    Mul mul "multiply" Any;
    /// `lhs / rhs`; integers round toward 0, and -1 (all bits set) is the quotient by 0.
    Div div "divide" Number;
    /// The remainder of [`BinaryOp::Div`], with the sign of `lhs`.
    Rem rem "remainder" Number;
    /// `lhs` to the power `rhs`.
    Pow pow "power" Number;
    /// The greater one; `pred` is or. NaN if one is NaN, but on a CPU only where
    /// `xla_cpu_enable_fast_min_max` is off.
    Max max "maximum" Any;
    /// The lesser one; `pred` is and. NaN if one is NaN, but on a CPU only where
    /// `xla_cpu_enable_fast_min_max` is off.
    Min min "minimum" Any;
    /// The bits set in both.
    And and "and" Bits;
    /// The bits set in either.
    Or or "or" Bits;
    /// The bits set in one only.
    Xor xor "xor" Bits;
    /// `lhs` moved left by `rhs` bits, zeros coming in; 0 from the width on.
    Shl shl "shift-left" Integer;
    /// `lhs` moved right by `rhs` bits, zeros coming in; 0 from the width on.
    ShrLogical shr_logical "shift-right-logical" Integer;
    /// `lhs` moved right by `rhs` bits, copies of the sign coming in.
    ShrArithmetic shr_arithmetic "shift-right-arithmetic" Integer;
    /// The angle of the point (x = `rhs`, y = `lhs`) in radians.
    Atan2 atan2 "atan2" Float;
}

impl Builder {
    /// Any operation on one array; each has a method of its own too.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where the operation is not defined on the
    /// element type.
    pub fn unary(&self, op: UnaryOp, x: Value) -> Result<Value> {
        let mut shape = self.array(op.opcode(), x)?;
        let context = Context {
            op: op.opcode(),
            operands: &[&shape],
        };
        check_domain(&context, op.domain())?;
        if op == UnaryOp::IsFinite {
            shape = shape.with_element_type(ElementType::Pred);
        }
        self.push(Op::Plain(op.opcode()), shape.into(), &[x])
    }

    /// Any operation on two arrays of one shape; each has a method of its own too.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where the operation is not defined on the
    /// element type or the operands' types differ, [`Error::Shape`](crate::Error::Shape) where
    /// their sizes differ.
    pub fn binary(&self, op: BinaryOp, lhs: Value, rhs: Value) -> Result<Value> {
        let (a, b) = (self.array(op.opcode(), lhs)?, self.array(op.opcode(), rhs)?);
        let context = Context {
            op: op.opcode(),
            operands: &[&a, &b],
        };
        context.same_shape()?;
        check_domain(&context, op.domain())?;
        self.push(Op::Plain(op.opcode()), a.into(), &[lhs, rhs])
    }
}
