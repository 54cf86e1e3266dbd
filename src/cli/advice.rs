//! What to type instead, for command lines that cannot be run as they are.

use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::hub::RepoId;

/// Options of Transformers and of other programs, and what does the same here.
const ELSEWHERE: [(&str, &str); 16] = [
    (
        "--max-length",
        "--max-length counts the prompt too; use --max-new-tokens N, which counts new tokens alone",
    ),
    ("--max-tokens", "use --max-new-tokens N"),
    ("--num-tokens", "use --max-new-tokens N"),
    (
        "--num-beams",
        "there is no beam search: each new token is the most likely one, as with num_beams=1",
    ),
    ("--torch-dtype", "use --dtype bf16, f16 or f32"),
    ("--precision", "use --dtype bf16, f16 or f32"),
    (
        "--device-map",
        "use --device cpu, tpu or cuda, and --mesh data=D,model=M to split the model over devices",
    ),
    ("--tensor-parallel-size", "use --mesh model=N"),
    ("--per-device-eval-batch-size", "use --batch-size B"),
    ("--model-id", "use --model DIR|HUB_ID"),
    ("--model-name-or-path", "use --model DIR|HUB_ID"),
    ("--checkpoint", "use --model DIR|HUB_ID"),
    ("--file", "use --input FILE"),
    ("--prompt-file", "use --input FILE"),
    ("--token", "set the environment variable HF_TOKEN"),
    ("--cache-dir", "set the environment variable HF_HUB_CACHE"),
];

/// Adds what to type instead to an error of the command line, whose arguments after the program's
/// name are `arguments`.
pub(super) fn advise(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let advice = match error.kind() {
        ErrorKind::UnknownArgument => {
            // "use '-- --temperature'" would make the option a prompt.
            error.remove(ContextKind::Suggested);
            let advice = unknown_option(&error, arguments);
            if advice.is_some() {
                error.remove(ContextKind::SuggestedArg);
            }
            advice
        }
        ErrorKind::InvalidSubcommand => {
            let advice = without_subcommand(arguments);
            if advice.is_some() {
                error.remove(ContextKind::SuggestedSubcommand);
            }
            advice
        }
        ErrorKind::MissingRequiredArgument if lacks_model(&error) => without_model(arguments),
        _ => None,
    };
    if let Some(advice) = advice {
        let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
        error.insert(ContextKind::Suggested, advice);
    }
    error
}

fn unknown_option(error: &clap::Error, arguments: &[String]) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if !argument.starts_with('-') {
        return names_model(argument).then(|| without_model(arguments))?;
    }
    let name = argument.split('=').next().unwrap_or_default();
    let hyphens = name.replace('_', "-");
    let known = ELSEWHERE.iter().find(|(option, _)| *option == hyphens);
    match known {
        Some((_, advice)) => Some((*advice).to_owned()),
        None if hyphens != name => Some(format!("options are written with hyphens: {hyphens}")),
        None => None,
    }
}

/// `gemma-xla google/gemma-2b …`, and a prompt alone.
fn without_subcommand(arguments: &[String]) -> Option<String> {
    let first = arguments.first()?;
    if names_model(first) {
        let rest = arguments.get(1..).unwrap_or_default();
        let mut command = vec!["generate", "--model", first];
        match rest {
            [] => command.push("A prompt"),
            rest => command.extend(rest.iter().map(String::as_str)),
        }
        return Some(did_you_mean(&command));
    }
    // One word is a mistyped subcommand; clap knows which.
    if !first.contains(char::is_whitespace) {
        return None;
    }
    let mut command = vec!["generate", "--model", "google/gemma-2b"];
    command.extend(arguments.iter().map(String::as_str));
    Some(did_you_mean(&command))
}

fn lacks_model(error: &clap::Error) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing
            .iter()
            .any(|argument| argument.starts_with("--model")),
        _ => false,
    }
}

/// `gemma-xla generate google/gemma-2b "hi"`, and without any model.
fn without_model(arguments: &[String]) -> Option<String> {
    let (subcommand, rest) = arguments.split_first()?;
    let is_value = |index: usize| {
        let before = index.checked_sub(1).and_then(|before| rest.get(before));
        before.is_some_and(|option| option.starts_with('-') && !option.contains('='))
    };
    let model = (0..rest.len()).find(|&i| !is_value(i) && names_model(&rest[i]));
    let name = model.map_or("google/gemma-2b", |index| rest[index].as_str());
    let mut command = vec![subcommand.as_str(), "--model", name];
    let others = rest.iter().enumerate().filter(|(i, _)| Some(*i) != model);
    command.extend(others.map(|(_, argument)| argument.as_str()));
    Some(did_you_mean(&command))
}

/// Whether an argument looks like a model: a folder, a file of weights, or a name on the Hub.
fn names_model(argument: &str) -> bool {
    let path = Path::new(argument);
    let is_weights = || {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("msgpack" | "safetensors" | "npz")) && path.is_file()
    };
    let is_repository = || argument.contains('/') && argument.parse::<RepoId>().is_ok();
    path.is_dir() || is_weights() || is_repository()
}

fn did_you_mean(command: &[&str]) -> String {
    let quoted: Vec<String> = command.iter().map(|argument| quoted(argument)).collect();
    format!("did you mean: gemma-xla {}", quoted.join(" "))
}

/// The argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        assert_eq!(quoted("google/gemma-2b"), "google/gemma-2b");
        assert_eq!(quoted("hi there"), "'hi there'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
