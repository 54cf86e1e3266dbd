//! One instruction: its operation with attributes, shape, operands and called computations.

use crate::ops::{
    ComparisonType, CustomCallOptions, Direction, DotDims, GatherDims, Precision, ScatterDims,
    WindowDim,
};
use crate::{Computation, Literal, Shape};

/// An operation with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Parameter {
        number: i64,
        name: String,
    },
    Constant(Literal),
    /// An operation without attributes, by opcode.
    Plain(&'static str),
    /// An operation whose only attribute is a list of dimension numbers, by opcode.
    Dimensions(&'static str, Vec<i64>),
    Compare(Direction, ComparisonType),
    Iota {
        dim: i64,
    },
    ReducePrecision {
        exponent_bits: i32,
        mantissa_bits: i32,
    },
    Slice {
        starts: Vec<i64>,
        limits: Vec<i64>,
        strides: Vec<i64>,
    },
    DynamicSlice {
        sizes: Vec<i64>,
    },
    Pad {
        low: Vec<i64>,
        high: Vec<i64>,
        interior: Vec<i64>,
    },
    Gather(GatherDims),
    Scatter(ScatterDims),
    Dot(DotDims, Precision),
    Reduce {
        dims: Vec<i64>,
    },
    ReduceWindow {
        window: Vec<WindowDim>,
    },
    Sort {
        dim: i64,
        stable: bool,
    },
    GetTupleElement {
        index: i64,
    },
    /// Calls its condition, then its body.
    While,
    /// Calls the computation for true, then the one for false.
    Conditional,
    Call,
    AllReduce {
        groups: Vec<Vec<i64>>,
    },
    /// all-gather, reduce-scatter or all-to-all, by opcode.
    AlongDim {
        opcode: &'static str,
        dim: i64,
        groups: Vec<Vec<i64>>,
    },
    CollectivePermute {
        pairs: Vec<(i64, i64)>,
    },
    CustomCall {
        target: String,
        options: CustomCallOptions,
    },
}

impl Op {
    /// The operation's name in protobuf, text and errors.
    pub(crate) fn opcode(&self) -> &'static str {
        match self {
            Self::Parameter { .. } => "parameter",
            Self::Constant(_) => "constant",
            Self::Plain(opcode) | Self::Dimensions(opcode, _) | Self::AlongDim { opcode, .. } => {
                opcode
            }
            Self::Compare(..) => "compare",
            Self::Iota { .. } => "iota",
            Self::ReducePrecision { .. } => "reduce-precision",
            Self::Slice { .. } => "slice",
            Self::DynamicSlice { .. } => "dynamic-slice",
            Self::Pad { .. } => "pad",
            Self::Gather(_) => "gather",
            Self::Scatter(_) => "scatter",
            Self::Dot(..) => "dot",
            Self::Reduce { .. } => "reduce",
            Self::ReduceWindow { .. } => "reduce-window",
            Self::Sort { .. } => "sort",
            Self::GetTupleElement { .. } => "get-tuple-element",
            Self::While => "while",
            Self::Conditional => "conditional",
            Self::Call => "call",
            Self::AllReduce { .. } => "all-reduce",
            Self::CollectivePermute { .. } => "collective-permute",
            Self::CustomCall { .. } => "custom-call",
        }
    }
}

/// An instruction of a computation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instruction {
    pub(crate) op: Op,
    pub(crate) shape: Shape,
    /// Positions of the operands in the computation; each is less than the instruction's own.
    pub(crate) operands: Vec<usize>,
    pub(crate) called: Vec<Computation>,
    /// The name's first part in text, where it is not the opcode.
    pub(crate) name: Option<String>,
    /// The scope that the instruction was added in, for dumps and profiles.
    pub(crate) scope: String,
}
