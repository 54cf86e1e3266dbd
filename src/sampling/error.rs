//! What can be wrong with sampling options.

/// An option whose value cannot be used. The message is one line that names the argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{argument}: {problem}")]
#[non_exhaustive]
pub struct Error {
    /// The option's name, as a field of [`SamplingOptions`](super::SamplingOptions).
    pub argument: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(argument: &'static str, problem: impl Into<String>) -> Self {
        Self {
            argument,
            problem: problem.into(),
        }
    }
}
