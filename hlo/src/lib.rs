//! A typed builder of XLA HLO modules.
//!
//! A [`Builder`] collects the instructions of one computation. Each operation checks element types,
//! shapes and dimension numbers when it is added and answers with an [`Error`] that names the
//! operation and its operands; nothing is broadcast or converted behind the caller's back. A
//! finished [`Computation`] is called by other computations, or becomes the entry of a [`Module`],
//! which prints as HLO text and serializes as `HloModuleProto`.
//!
//! ```
//! use hlo::{Builder, ElementType, Module, Shape};
//!
//! # fn main() -> hlo::Result<()> {
//! let b = Builder::new("main");
//! let x = b.parameter("x", Shape::array(ElementType::F32, &[2, 3]))?;
//! let squares = b.mul(x, x)?;
//! let total = b.reduce_sum(squares, &[1])?;
//! let module = Module::new("squares", b.finish(total)?);
//! assert!(module.to_text().contains("ROOT %reduce"));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Tensor`] is a value with operators, for longer computations:
//!
//! ```
//! use hlo::{Builder, ElementType, Shape, Tensor};
//!
//! /// `x / (1 + e^-x)`.
//! fn silu(x: Tensor<'_>) -> Tensor<'_> {
//!     x / (1.0 + (-x).exp())
//! }
//!
//! # fn main() -> hlo::Result<()> {
//! let b = Builder::new("main");
//! let x = b.input("x", Shape::array(ElementType::F32, &[2, 3]));
//! let root = b.scoped("silu", || silu(x)).value()?;
//! let computation = b.finish(root)?;
//! # Ok(())
//! # }
//! ```
//!
//! Operation semantics are those of XLA's operation reference; field names and text follow XLA's
//! `hlo.proto`, `xla_data.proto` and HLO text syntax.

#![forbid(unsafe_code)]

mod builder;
mod check;
mod computation;
mod element;
mod error;
mod instruction;
mod literal;
mod literal_text;
mod module;
mod numbering;
mod ops;
mod proto;
mod shape;
mod tensor;
mod text;

pub use builder::{Builder, Value};
pub use computation::Computation;
pub use element::{Element, ElementType};
pub use error::{Error, Result};
pub use literal::Literal;
pub use module::{AliasKind, Module};
pub use ops::{
    BinaryOp, CustomCallApi, CustomCallOptions, Direction, DotDims, GatherDims, OutputOperandAlias,
    Precision, ScatterDims, UnaryOp, WindowDim,
};
pub use shape::{ArrayShape, Shape};
pub use tensor::{Operand, Tensor};
