//! Where results are written, and in which format.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::value::RawValue;

use super::input::Prompt;
use super::terminal::Results;
use crate::engine::Generation;
use crate::whole_file::{Mode, WholeFile};

/// The format of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// The prompt and its continuation; an empty line between results.
    Text,
    /// One JSON object per line.
    Jsonl,
}

/// One line of JSON output.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<usize>,
    id: Option<&'a RawValue>,
    token_ids: &'a [u32],
    text: Option<&'a str>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Logprob<'a>>>,
}

/// What is reported of a token.
#[derive(Serialize)]
struct Logprob<'a> {
    token_id: u32,
    logprob: f32,
    top: &'a [(u32, f32)],
}

/// What a line says beyond the generation itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineOptions {
    /// Whether prompts have several replies, which are numbered.
    pub has_sequences: bool,
    /// Whether log-probabilities were asked for.
    pub has_logprobs: bool,
}

/// Writes `generation` as a line of JSON.
pub fn write_jsonl(
    to: &mut dyn Write,
    prompt: &Prompt,
    generation: &Generation,
    text: Option<&str>,
    options: LineOptions,
) -> io::Result<()> {
    let line = Line {
        index: generation.index,
        sequence: options.has_sequences.then_some(generation.sequence),
        id: prompt.id.as_deref(),
        token_ids: &generation.token_ids,
        text,
        finish_reason: generation.finish_reason.name(),
        logprobs: options.has_logprobs.then(|| {
            let tokens = generation.logprobs.iter();
            tokens
                .map(|token| Logprob {
                    token_id: token.token_id,
                    logprob: token.logprob,
                    top: &token.top,
                })
                .collect()
        }),
    };
    write_line(to, &line)
}

/// A piece of a reply.
#[derive(Serialize)]
struct DeltaLine<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<usize>,
    id: Option<&'a RawValue>,
    delta: Delta<'a>,
}

#[derive(Serialize)]
struct Delta<'a> {
    token_ids: &'a [u32],
    text: Option<&'a str>,
}

/// Writes new tokens of a reply, and the text that they settled, as a line of JSON.
pub fn write_delta(
    to: &mut dyn Write,
    index: usize,
    sequence: Option<usize>,
    prompt: &Prompt,
    token_ids: &[u32],
    text: Option<&str>,
) -> io::Result<()> {
    let line = DeltaLine {
        index,
        sequence,
        id: prompt.id.as_deref(),
        delta: Delta { token_ids, text },
    };
    write_line(to, &line)
}

/// A prompt that failed.
#[derive(Serialize)]
struct ErrorLine<'a> {
    index: usize,
    id: Option<&'a RawValue>,
    error: &'a str,
}

/// Writes why a prompt failed as a line of JSON.
pub fn write_error(
    to: &mut dyn Write,
    index: usize,
    prompt: Option<&Prompt>,
    error: &str,
) -> io::Result<()> {
    let line = ErrorLine {
        index,
        id: prompt.and_then(|prompt| prompt.id.as_deref()),
        error,
    };
    write_line(to, &line)
}

/// A value as one line, in one piece, so that an interruption leaves whole lines.
pub fn write_line(to: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Standard output, or a file that appears under its name when it is complete.
pub enum Output {
    /// Standard output, or the device or pipe that was named.
    Stream(Box<dyn Write>),
    /// Gets its name from [`finish`](Self::finish).
    File {
        /// The file as it is written.
        file: BufWriter<WholeFile>,
        /// The option and the name, for errors.
        name: String,
    },
}

impl Output {
    /// Opens the `path` that `option` names, or standard output if it is none.
    pub fn open(option: &'static str, path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Output::Stream(Box::new(Results::new())));
        };
        let name = || format!("{option} {}", path.display());
        let is_special = path
            .metadata()
            .is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
        if is_special {
            let file = File::options().write(true).open(path).with_context(name)?;
            return Ok(Output::Stream(Box::new(file)));
        }
        let file = WholeFile::create(path, Mode::Users, false).with_context(name)?;
        Ok(Output::File {
            file: BufWriter::new(file),
            name: name(),
        })
    }

    /// Discards results.
    pub fn nowhere() -> Self {
        Output::Stream(Box::new(io::sink()))
    }

    /// The writer.
    pub fn writer(&mut self) -> &mut dyn Write {
        match self {
            Output::Stream(stream) => stream,
            Output::File { file, .. } => file,
        }
    }

    /// Gives a file its name. One that nothing was written to, since the run was interrupted before
    /// the first result, does not replace what has the name.
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Output::Stream(mut stream) => Ok(stream.flush()?),
            Output::File { file, name } => {
                let file = file.into_inner().map_err(|e| e.into_error());
                let commit = |file: WholeFile| match file.is_empty()? {
                    true => Ok(()),
                    false => file.commit(),
                };
                file.and_then(commit).context(name)
            }
        }
    }
}
