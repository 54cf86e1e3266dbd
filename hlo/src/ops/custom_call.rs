//! Calls of functions that a plugin or a library registers with XLA.

use crate::instruction::Op;
use crate::{Builder, Error, Result, Shape, Value};

/// The calling convention of a custom call's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CustomCallApi {
    /// XLA's FFI: typed buffers, and attributes from a dictionary in MLIR's text form.
    #[default]
    TypedFfi,
    /// The older convention of raw pointers, with a status and an opaque string.
    StatusReturningUnified,
}

impl CustomCallApi {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TypedFfi => "API_VERSION_TYPED_FFI",
            Self::StatusReturningUnified => "API_VERSION_STATUS_RETURNING_UNIFIED",
        }
    }
}

/// An output of a custom call that is written into the buffer of an operand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputOperandAlias {
    /// The output's place in the result's tuples; empty for a result that is no tuple.
    pub output_index: Vec<i64>,
    /// Which operand.
    pub operand: i64,
    /// The place in the operand's tuples; empty for an operand that is no tuple.
    pub operand_index: Vec<i64>,
}

/// What a custom call needs beyond target, operands and result.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CustomCallOptions {
    /// What the target reads as its attributes; for the FFI a dictionary such as `{n = 3 : i64}`.
    pub backend_config: String,
    /// The calling convention.
    pub api_version: CustomCallApi,
    /// The operands' shapes in the layouts that the target takes them in; the result's layout is
    /// then binding too. Without, the compiler chooses them.
    pub operand_layouts: Option<Vec<Shape>>,
    /// Whether the call must stay although nobody uses its result.
    pub has_side_effect: bool,
    /// Outputs that share a buffer with an operand.
    pub output_operand_aliasing: Vec<OutputOperandAlias>,
}

impl Builder {
    /// Calls a registered function.
    ///
    /// # Errors
    /// [`Error::Shape`] where `operand_layouts` are not the operands' shapes, or aliased shapes are
    /// not there or differ; [`Error::InvalidShape`] where a layout is no permutation.
    pub fn custom_call(
        &self,
        target: &str,
        operands: &[Value],
        result: impl Into<Shape>,
        options: CustomCallOptions,
    ) -> Result<Value> {
        const OP: &str = "custom-call";
        let result = result.into();
        let shapes: Result<Vec<Shape>> = operands
            .iter()
            .map(|&operand| self.operand(OP, operand))
            .collect();
        let shapes = shapes?;
        let wrong = |reason: String| {
            let list: Vec<String> = shapes.iter().map(Shape::to_string).collect();
            Error::Shape {
                op: OP,
                operands: list.join(", "),
                reason: format!("{target}: {reason}"),
            }
        };
        if let Some(layouts) = &options.operand_layouts {
            let fit = layouts.len() == shapes.len()
                && layouts.iter().zip(&shapes).all(|(a, b)| a.is_compatible(b));
            if !fit {
                return Err(wrong("operand layouts are of other shapes".to_owned()));
            }
            layouts.iter().try_for_each(|layout| layout.validate(OP))?;
        }
        for alias in &options.output_operand_aliasing {
            let output = result.leaf(&alias.output_index);
            let operand = usize::try_from(alias.operand)
                .ok()
                .and_then(|i| shapes.get(i))
                .and_then(|shape| shape.leaf(&alias.operand_index));
            let same = matches!((output, operand), (Some(a), Some(b)) if a.is_compatible(b));
            if !same {
                return Err(wrong(format!("{alias:?} joins what is not of one shape")));
            }
        }
        let op = Op::CustomCall {
            target: target.to_owned(),
            options,
        };
        self.push(op, result, operands)
    }
}
