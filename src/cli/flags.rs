//! Errors of the library speak of arguments; here they get the names of the options that give those.

use std::error::Error;

use crate::engine;
use crate::sharding::SplitError;

/// An error and its causes in one line.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    let chain: Vec<String> = error.chain().map(described).collect();
    chain.join(": ").replace(['\n', '\r'], " ")
}

fn described(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(engine::Error::Argument { argument, problem }) => {
            format!("--{}: {problem}", argument.replace('_', "-"))
        }
        Some(engine::Error::Split(split)) => format!("--mesh {split}"),
        _ if error.is::<SplitError>() => format!("--mesh {error}"),
        _ => error.to_string(),
    }
}
