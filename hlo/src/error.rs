//! What can be wrong with an operation or a module.

use crate::{ElementType, Shape};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was not added, or a module not made. Shapes are written as HLO text writes
/// them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What failed in a named scope of the builder.
    #[error("{scope}: {error}")]
    Scoped {
        /// The scopes' names, joined by `/`.
        scope: String,
        /// What failed.
        error: Box<Error>,
    },

    /// A value of one builder was given to another one.
    #[error("{op}: operand is a value of another builder, not of '{builder}'")]
    ForeignValue {
        /// The operation.
        op: &'static str,
        /// The builder that was asked.
        builder: String,
    },

    /// A tuple stands where an array must, or an array where a tuple must.
    #[error("{op}: expected {expected}, got {shape}")]
    Kind {
        /// The operation.
        op: &'static str,
        /// What the operation takes.
        expected: &'static str,
        /// What it was given.
        shape: Box<Shape>,
    },

    /// The operation is not defined on the element types given.
    #[error("{op}({operands}): {reason}")]
    ElementType {
        /// The operation.
        op: &'static str,
        /// The operands' shapes.
        operands: String,
        /// What was expected.
        reason: String,
    },

    /// Shapes of operands and result do not fit each other.
    #[error("{op}({operands}): {reason}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operands' shapes.
        operands: String,
        /// What does not fit.
        reason: String,
    },

    /// A dimension number is out of range, repeated, or there are too many or too few of them.
    #[error("{op}({operands}): {reason}")]
    Dimensions {
        /// The operation.
        op: &'static str,
        /// The operands' shapes.
        operands: String,
        /// Which number is wrong.
        reason: String,
    },

    /// A called computation does not take or give what the operation needs.
    #[error("{op}({operands}): computation {computation} {reason}")]
    Computation {
        /// The operation.
        op: &'static str,
        /// The operands' shapes.
        operands: String,
        /// Name and signature of the computation.
        computation: String,
        /// What was expected of it.
        reason: String,
    },

    /// Replica groups or pairs are empty, overlap, or are of unequal size.
    #[error("{op}({operands}): {reason}")]
    Replicas {
        /// The operation.
        op: &'static str,
        /// The operands' shapes.
        operands: String,
        /// What is wrong with the groups.
        reason: String,
    },

    /// A number that an element type cannot hold.
    #[error("constant: {value} is not representable as {element_type}")]
    Unrepresentable {
        /// The number.
        value: f64,
        /// The type that was to hold it.
        element_type: ElementType,
    },

    /// The data of a literal do not fill its shape.
    #[error("literal of shape {shape}: {reason}")]
    Literal {
        /// The literal's shape.
        shape: String,
        /// What is wrong with the data.
        reason: String,
    },

    /// A shape with a negative size, more bytes than 63 bits count, or a layout that is no
    /// permutation.
    #[error("{op}: invalid shape {shape}: {reason}")]
    InvalidShape {
        /// The operation that would have this shape.
        op: &'static str,
        /// The shape.
        shape: String,
        /// What is invalid in it.
        reason: &'static str,
    },

    /// An alias or a layout of a module's parameters or result that does not fit the module.
    #[error("module '{module}': {reason}")]
    Module {
        /// The module's name.
        module: String,
        /// What does not fit.
        reason: String,
    },
}

impl Error {
    /// The same error with the scope that it arose in, if it has none yet.
    pub(crate) fn in_scope(self, scope: String) -> Self {
        match self {
            error if scope.is_empty() => error,
            error @ Self::Scoped { .. } => error,
            error => Self::Scoped {
                scope,
                error: Box::new(error),
            },
        }
    }
}
