//! `gemma-xla score`: how likely given texts are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Outcome;
use super::flags::one_line;
use super::input::{BadPrompt, Line, Lines};
use super::model::{ModelArgs, load_opened};
use super::output::{Output, write_line};
use super::terminal;
use crate::engine::{Engine, ScoreRequest, windows};
use crate::source::Model;
use crate::tokenizer::Tokenizer;

/// Options of `score`.
#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON lines with "context" and "continuation", or "context_ids" and "continuation_ids"; - for
    /// standard input
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "perplexity",
        conflicts_with = "perplexity"
    )]
    input: Option<PathBuf>,
    /// Text whose perplexity is measured, with a sliding window
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,
    /// Tokens from one window's beginning to the next's [default: 512, or the window]
    #[arg(long, value_name = "N", requires = "perplexity")]
    stride: Option<usize>,
    /// Tokens of a window [default: what the model has positions for]
    #[arg(long, value_name = "N", requires = "perplexity")]
    max_length: Option<usize>,
    /// Number of texts that run together
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch_size: usize,
    /// File for the results instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// End the run at the first line that cannot be scored
    #[arg(long)]
    strict: bool,
    /// Print the perplexity as one JSON object
    #[arg(long, requires = "perplexity")]
    json: bool,
}

/// A line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: Option<Box<RawValue>>,
    context: Option<String>,
    context_ids: Option<Vec<u32>>,
    continuation: Option<String>,
    continuation_ids: Option<Vec<u32>>,
}

/// A line of the results.
#[derive(Serialize)]
struct Scored<'a> {
    index: usize,
    id: Option<&'a RawValue>,
    logprob: f64,
    token_logprobs: &'a [f32],
    is_greedy: bool,
}

/// A line that could not be scored.
#[derive(Serialize)]
struct Failed<'a> {
    index: usize,
    id: Option<&'a RawValue>,
    error: &'a str,
}

/// What `--perplexity` found.
#[derive(Serialize)]
struct Perplexity {
    file: String,
    tokens: usize,
    logprob: f64,
    perplexity: f64,
    bits_per_byte: f64,
    window: usize,
    stride: usize,
}

/// Runs the command.
pub fn run(args: &ScoreArgs) -> anyhow::Result<Outcome> {
    let arguments = args.model.located()?;
    let model = Model::open(&arguments.model)?;
    match (&args.input, &args.perplexity) {
        (Some(input), _) => {
            let lines = Lines::open(input)?;
            let loaded = load_opened(model, &arguments.options())?;
            score_lines(args, lines, loaded.engine(), loaded.tokenizer())
        }
        (None, Some(file)) => {
            let text = text_of(file)?;
            let tokenizer = model
                .tokenizer()
                .with_context(|| format!("{}: the model has no tokenizer", file.display()))?;
            let ids = tokenizer
                .encode(&text)
                .with_context(|| file.display().to_string())?;
            ensure!(ids.len() > 1, "{}: has no token to score", file.display());
            let positions = model.config().max_position_embeddings();
            let window = args.max_length.unwrap_or(positions).min(positions);
            let stride = args.stride.unwrap_or(512.min(window));
            // What is wrong with them is said before the checkpoint is read.
            windows(ids.len(), window, stride)?;
            let loaded = load_opened(model, &arguments.options())?;
            let engine = loaded.engine();
            let score = engine.score_text(&ids, window, stride, args.batch_size)?;
            let found = Perplexity {
                file: file.display().to_string(),
                tokens: score.tokens,
                logprob: score.logprob,
                perplexity: score.perplexity(),
                bits_per_byte: -score.logprob / std::f64::consts::LN_2 / text.len() as f64,
                window,
                stride,
            };
            match args.json {
                true => terminal::print_json(&found)?,
                false => terminal::print(&format!(
                    "{}: perplexity {:.4} over {} tokens, {:.4} bits per byte (windows of {}, stride {})\n",
                    terminal::escaped_line(&found.file),
                    found.perplexity,
                    found.tokens,
                    found.bits_per_byte,
                    found.window,
                    found.stride
                ))?,
            }
            Ok(Outcome::Done)
        }
        (None, None) => bail!("give --input FILE or --perplexity FILE"),
    }
}

/// A whole text.
fn text_of(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for (number, line) in Lines::open(file)?.enumerate() {
        let line = line.map_err(|bad| bad.error)?;
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&line.text);
    }
    Ok(text)
}

/// A line that is on its way.
struct Pending {
    id: Option<Box<RawValue>>,
    /// Why it is not scored, where it is not.
    error: Option<String>,
}

fn score_lines(
    args: &ScoreArgs,
    lines: Lines,
    engine: &Engine,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<Outcome> {
    let mut output = Output::open("--output", args.output.as_deref())?;
    if !engine.is_first_process() {
        output = Output::nowhere();
    }
    let name = lines.name.clone();
    // Lines that are not written yet, in order.
    let pending: RefCell<VecDeque<Pending>> = RefCell::default();
    let failure = RefCell::new(None);
    let failed = RefCell::new(0);
    let read = RefCell::new(0);
    let mut lines = lines.filter(|line| {
        let is_blank = |line: &Line| line.text.trim().is_empty();
        !line.as_ref().is_ok_and(is_blank)
    });
    let mut requests = std::iter::from_fn(|| {
        loop {
            if failure.borrow().is_some() {
                return None;
            }
            let line = lines.next()?;
            let index = read.replace_with(|read| *read + 1);
            let mut id = None;
            let request = line
                .map_err(|BadPrompt { error, .. }| error)
                .and_then(|line| request(&line, tokenizer, &mut id))
                .and_then(|(request, place)| {
                    let checked = engine.check_score(index, &request);
                    checked.context(place)?;
                    Ok(request)
                });
            let error = match request {
                Ok(request) => {
                    let new = Pending { id, error: None };
                    pending.borrow_mut().push_back(new);
                    return Some(request);
                }
                Err(error) => error,
            };
            // A run of which the first line fails is likely to be one that nobody wants.
            if args.strict || index == 0 {
                failure.replace(Some(error));
                return None;
            }
            *failed.borrow_mut() += 1;
            pending.borrow_mut().push_back(Pending {
                id,
                error: Some(one_line(&error)),
            });
        }
    });
    let mut index = 0;
    let write_failed = |output: &mut Output, index: &mut usize| -> std::io::Result<()> {
        loop {
            let first = match pending.borrow_mut() {
                mut pending if pending.front().is_some_and(|first| first.error.is_some()) => {
                    pending.pop_front()
                }
                _ => None,
            };
            let Some(Pending {
                id,
                error: Some(error),
            }) = first
            else {
                return Ok(());
            };
            let line = Failed {
                index: *index,
                id: id.as_deref(),
                error: &error,
            };
            write_line(output.writer(), &line)?;
            *index += 1;
        }
    };
    let flow = engine.score_with(&mut requests, args.batch_size, |_, score| {
        let written = write_failed(&mut output, &mut index).and_then(|()| {
            let first = pending.borrow_mut().pop_front();
            let id = first.and_then(|first| first.id);
            let line = Scored {
                index,
                id: id.as_deref(),
                logprob: score.logprob(),
                token_logprobs: &score.token_logprobs,
                is_greedy: score.is_greedy,
            };
            index += 1;
            write_line(output.writer(), &line)
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    })?;
    let ended = match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => write_failed(&mut output, &mut index),
    };
    if let Err(error) = ended {
        let error = anyhow::Error::new(error).context("cannot write the results");
        return match terminal::is_broken_pipe(&error) {
            true => Ok(Outcome::Done),
            false => Err(error),
        };
    }
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    ensure!(index > 0, "{name}: has no lines to score");
    output.finish()?;
    let failed = failed.into_inner();
    if failed > 0 {
        terminal::warn(format_args!(
            "{failed} lines failed; their results have an \"error\" (--strict ends the run there)"
        ));
    }
    Ok(Outcome::Done)
}

/// What a line asks for, and where it stands; its id, where it has one.
fn request(
    line: &Line,
    tokenizer: Option<&Tokenizer>,
    id: &mut Option<Box<RawValue>>,
) -> anyhow::Result<(ScoreRequest, String)> {
    let place = &line.place;
    let record: Record = serde_json::from_str(&line.text)
        .with_context(|| format!("{place}: not a context and a continuation"))?;
    *id = record.id;
    let needs_tokenizer = || anyhow!("{place}: a text needs a tokenizer, and the model has none");
    let request = match (
        record.context,
        record.context_ids,
        record.continuation,
        record.continuation_ids,
    ) {
        (None, Some(context), None, Some(continuation)) => ScoreRequest {
            context,
            continuation,
        },
        (Some(context), None, Some(continuation), None) => {
            let tokenizer = tokenizer.ok_or_else(needs_tokenizer)?;
            of_texts(tokenizer, &context, &continuation).with_context(|| place.clone())?
        }
        _ => bail!(
            "{place}: expected \"context\" and \"continuation\", or \"context_ids\" and \"continuation_ids\""
        ),
    };
    Ok((request, place.clone()))
}

/// The tokens of two texts, cut where they have them in one: spaces at the context's end belong to
/// the first word of the continuation.
fn of_texts(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
) -> anyhow::Result<ScoreRequest> {
    let trimmed = context.trim_end();
    let (context, moved) = match trimmed.is_empty() {
        true => (context, ""),
        false => context.split_at(trimmed.len()),
    };
    let context_ids = tokenizer.encode(context)?;
    let whole = tokenizer.encode(&format!("{context}{moved}{continuation}"))?;
    let continuation = whole.get(context_ids.len()..).unwrap_or_default().to_vec();
    Ok(ScoreRequest {
        context: whole[..whole.len() - continuation.len()].to_vec(),
        continuation,
    })
}
