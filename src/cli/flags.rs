//! Errors of the library speak of arguments; here they get the names of the options that give
//! those.

use std::error::Error;

use crate::sharding::SplitError;
use crate::{engine, plan, sampling};

/// An error and its causes in one line.
pub(super) fn one_line(error: &anyhow::Error) -> String {
    let chain: Vec<String> = error.chain().map(described).collect();
    chain.join(": ").replace(['\n', '\r'], " ")
}

fn described(error: &(dyn Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<sampling::Error>() {
        return format!("--{}: {}", error.argument.replace('_', "-"), error.problem);
    }
    if let Some(error) = error.downcast_ref::<plan::Error>() {
        return described_plan(error);
    }
    match error.downcast_ref() {
        Some(engine::Error::Argument { argument, problem }) => {
            format!("--{}: {problem}", argument.replace('_', "-"))
        }
        Some(engine::Error::Sampling(error)) => described(error),
        Some(engine::Error::Split(split)) => format!("--mesh {split}"),
        Some(engine::Error::Executables(error)) => format!("--executables: {error}"),
        _ if error.is::<SplitError>() => format!("--mesh {error}"),
        _ => error.to_string(),
    }
}

/// A plan's messages begin with the argument that cannot be used.
fn described_plan(error: &plan::Error) -> String {
    let message = error.to_string();
    match error {
        plan::Error::Split(split) => format!("--mesh {split}"),
        plan::Error::Engine(error) => described(error),
        _ => match error.argument() {
            Some(argument) => {
                let rest = message.strip_prefix(argument).unwrap_or(&message);
                format!("--{}{rest}", argument.replace('_', "-"))
            }
            None => message,
        },
    }
}
