//! The operations, a family a file: each checks its operands and adds one instruction, or a few
//! where it is a shorthand.

mod collective;
mod constant;
mod control;
mod convert;
mod custom_call;
mod dot;
mod elementwise;
mod gather;
mod movement;
mod reduce;
mod reducers;
mod select;
mod slicing;
mod sort;
mod window;

pub use custom_call::{CustomCallApi, CustomCallOptions, OutputOperandAlias};
pub use dot::{DotDims, Precision};
pub use elementwise::{BinaryOp, UnaryOp};
pub use gather::{GatherDims, ScatterDims};
pub(crate) use select::ComparisonType;
pub use select::Direction;
pub use window::WindowDim;
