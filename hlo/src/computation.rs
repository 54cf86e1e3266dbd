//! Finished computations.

use std::fmt;
use std::sync::Arc;

use crate::instruction::Instruction;
use crate::ops::BinaryOp;
use crate::{Builder, ElementType, Result, Shape};

/// A finished computation: a function from its parameters to its root. Cloning it is cheap.
///
/// A module emits a computation once, however often it is called; computations that are equal in
/// name and instructions count as the same one.
#[derive(Clone)]
pub struct Computation(Arc<Inner>);

#[derive(PartialEq)]
struct Inner {
    name: String,
    parameters: Vec<Shape>,
    result: Shape,
    instructions: Vec<Instruction>,
    root: usize,
}

impl Computation {
    pub(crate) fn new(
        name: String,
        parameters: Vec<Shape>,
        result: Shape,
        instructions: Vec<Instruction>,
        root: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            name,
            parameters,
            result,
            instructions,
            root,
        }))
    }

    /// A computation of two scalars, as reductions take it: `op(lhs, rhs)`.
    ///
    /// # Errors
    /// [`Error::ElementType`](crate::Error::ElementType) where `op` is not defined on the element
    /// type.
    pub fn binary(op: BinaryOp, element_type: ElementType) -> Result<Self> {
        let b = Builder::new(&format!("{}_{element_type}", op.opcode()));
        let lhs = b.parameter("lhs", Shape::scalar(element_type))?;
        let rhs = b.parameter("rhs", Shape::scalar(element_type))?;
        let root = b.binary(op, lhs, rhs)?;
        b.finish(root)
    }

    /// The name that the builder was made with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The shapes of the parameters, by number, in the layouts that they were declared with.
    pub fn parameters(&self) -> &[Shape] {
        &self.0.parameters
    }

    /// The shape of the root.
    pub fn result_shape(&self) -> &Shape {
        &self.0.result
    }

    /// Name and signature in one line: `add_f32(f32[], f32[]) -> f32[]`.
    pub fn signature(&self) -> String {
        let parameters: Vec<String> = self.parameters().iter().map(Shape::to_string).collect();
        format!(
            "{}({}) -> {}",
            self.name(),
            parameters.join(", "),
            self.result_shape()
        )
    }

    pub(crate) fn instructions(&self) -> &[Instruction] {
        &self.0.instructions
    }

    pub(crate) fn root(&self) -> usize {
        self.0.root
    }
}

impl PartialEq for Computation {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl fmt::Debug for Computation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.signature())
    }
}
