//! Figures of the prefill and of the decode steps, side by side.

use serde::Serialize;

/// One value for the prompts of a batch and one for the steps after them; none where a program does
/// not fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerProgram<T> {
    /// Of the programs that run the prompts, together: long ones are run in parts.
    pub prefill: Option<T>,
    /// Of the program that runs the steps.
    pub decode: Option<T>,
}

impl<T> PerProgram<T> {
    /// A figure of each.
    pub fn map<U>(&self, figure: impl Fn(&T) -> U) -> PerProgram<U> {
        PerProgram {
            prefill: self.prefill.as_ref().map(&figure),
            decode: self.decode.as_ref().map(&figure),
        }
    }

    /// A figure of each that has one.
    pub(super) fn and_then<U>(self, figure: impl Fn(T) -> Option<U>) -> PerProgram<U> {
        PerProgram {
            prefill: self.prefill.and_then(&figure),
            decode: self.decode.and_then(&figure),
        }
    }
}
