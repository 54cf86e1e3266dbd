//! `gemma-xla generate`: prompts in, continuations out.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

use super::Outcome;
use super::input::{InputFormat, Prompt, Prompts, read_prompts};
use super::model::{ModelArgs, load_opened};
use super::numerics::Numerics;
use super::output::{Output, OutputFormat, write_jsonl};
use super::terminal;
use crate::engine::{self, Engine, Event, GenerateOptions, GenerateSummary, Generation};
use crate::source::Model;
use crate::tokenizer::{TextStream, Tokenizer};

/// Options of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompts, each continued by the model
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,
    /// A prompt, as another way to write the arguments; may be given several times
    #[arg(
        long = "prompt",
        short = 'p',
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    more_prompts: Vec<String>,
    /// File with one prompt per line, or JSON lines; - for standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Format of the input [default: by the file's name, else by its first line]
    #[arg(long, value_enum)]
    input_format: Option<InputFormat>,
    /// Maximum number of new tokens per prompt
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    max_new_tokens: usize,
    /// Number of prompts that run together
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch_size: usize,
    /// Format of the results [default: jsonl where the input is, else text]
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
    /// File for the results instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder of executables that `plan --save` wrote, to load instead of compiling
    #[arg(long, value_name = "DIR")]
    executables: Option<PathBuf>,
    /// Look at the logits of each row and, where they are not numbers, name the first layer with
    /// such values; without it only rows whose tokens look like it are looked at
    #[arg(long)]
    check_numerics: bool,
    /// Write text as it is generated
    #[arg(long)]
    stream: bool,
}

impl GenerateArgs {
    /// The prompts that are arguments, and the input. A lone `-` is standard input, as it is to
    /// other programs.
    fn sources(&self) -> (Vec<String>, Option<&Path>) {
        match (self.prompts.as_slice(), self.input.as_deref()) {
            ([dash], None) if dash == "-" => (self.more_prompts.clone(), Some(Path::new("-"))),
            (prompts, input) => ([prompts, &self.more_prompts].concat(), input),
        }
    }
}

/// Runs the command.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let (arguments, input) = args.sources();
    let prompts = read_prompts(&arguments, input, args.input_format)?;
    let Prompts { prompts, format } = prompts;
    let format = args.format.unwrap_or(match format {
        Some(InputFormat::Jsonl) => OutputFormat::Jsonl,
        _ => OutputFormat::Text,
    });

    let arguments = args.model.located()?;
    let model = Model::open(&arguments.model)?;
    if model.tokenizer().is_none() && format == OutputFormat::Text {
        anyhow::bail!(
            "--format text: {} has neither tokenizer.json nor tokenizer.model; use --format jsonl",
            model.folder().display()
        );
    }
    let ids = prompts
        .iter()
        .map(|prompt| {
            let positions = model.config().max_position_embeddings();
            prompt.ids(model.tokenizer(), model.folder(), positions)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    super::source::leave_interrupts();
    let interrupted = Arc::new(AtomicBool::new(false));
    // The second signal ends the process at once, in case a call to the device hangs.
    for (signal, status) in [(SIGINT, 130), (SIGTERM, 143)] {
        register_conditional_shutdown(signal, status, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }

    let mut output = Output::open("--output", args.output.as_deref())?;
    let mut options = arguments.options();
    options.executables.clone_from(&args.executables);
    let loaded = load_opened(model, &options)?;
    let engine = loaded.engine();
    if !engine.is_first_process() {
        output = Output::nowhere();
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        batch_size: args.batch_size,
        stream: args.stream && format == OutputFormat::Text,
    };
    let mut printer = Printer {
        format,
        prompts: &prompts,
        ids: &ids,
        tokenizer: loaded.tokenizer(),
        output: output.writer(),
        interrupted: &interrupted,
        numerics: Numerics::new(engine, args.check_numerics),
        rows: ids
            .iter()
            .map(|prompt| Row {
                stream: loaded.tokenizer().map(|t| t.stream(prompt)),
                decoded: 0,
                waiting: String::new(),
                begun: false,
            })
            .collect(),
        current: 0,
    };
    let (summary, flow) = engine
        .generate_with(&ids, &options, |event| printer.tell(event))
        .map_err(|error| place(error, &prompts))?;
    if let ControlFlow::Break(Stop::Failed(failure)) = flow {
        return closed_or(failure);
    }
    if let Err(failure) = output.finish() {
        return closed_or(failure);
    }
    report(engine, &summary);
    Ok(match flow {
        ControlFlow::Break(_) => Outcome::Interrupted,
        ControlFlow::Continue(()) => Outcome::Done,
    })
}

/// A reader that closes the output has what it wants: `generate … | head` ends without an error.
fn closed_or(failure: anyhow::Error) -> anyhow::Result<Outcome> {
    match terminal::is_broken_pipe(&failure) {
        true => Ok(Outcome::Done),
        false => Err(failure),
    }
}

/// Adds the prompt's file, line and id to an error about it.
fn place(error: engine::Error, prompts: &[Prompt]) -> anyhow::Error {
    let index = match &error {
        engine::Error::EmptyPrompt { index }
        | engine::Error::PromptTooLong { index, .. }
        | engine::Error::TokenOutOfRange { index, .. } => Some(*index),
        _ => None,
    };
    match index.and_then(|index| prompts.get(index)) {
        Some(prompt) => anyhow::Error::new(error).context(prompt.to_string()),
        None => error.into(),
    }
}

/// Reports the timings on standard error.
fn report(engine: &Engine, summary: &GenerateSummary) {
    let times = engine.times();
    let rate = if times.decode.is_zero() {
        String::new()
    } else {
        let per_step = times.decode.as_secs_f64() * 1e3 / summary.steps.max(1) as f64;
        format!(" ({per_step:.1} ms per step)")
    };
    let cached = if times.cached.is_zero() {
        String::new()
    } else {
        format!(" (cached programs {:.2} s)", times.cached.as_secs_f64())
    };
    terminal::note(format_args!(
        "{} new tokens on {} × {}: load {:.2} s, compile {:.2} s{cached}, prefill {:.2} s, decode {:.2} s{rate}",
        summary.new_tokens,
        engine.spec().mesh.devices(),
        engine.device_kind(),
        times.load.as_secs_f64(),
        times.compile.as_secs_f64(),
        times.prefill.as_secs_f64(),
        times.decode.as_secs_f64(),
    ));
}

/// The text of a row.
struct Row<'a> {
    /// Decodes the tokens as they arrive; none where there is no tokenizer.
    stream: Option<TextStream<'a>>,
    /// Tokens that have been given to `stream`.
    decoded: usize,
    /// Text that waits for the row's turn.
    waiting: String,
    begun: bool,
}

/// Writes results in order as they arrive.
struct Printer<'a> {
    format: OutputFormat,
    prompts: &'a [Prompt],
    ids: &'a [Vec<u32>],
    tokenizer: Option<&'a Tokenizer>,
    output: &'a mut dyn Write,
    interrupted: &'a AtomicBool,
    numerics: Numerics<'a>,
    rows: Vec<Row<'a>>,
    /// The row whose text is being written; later rows wait for their turn.
    current: usize,
}

/// Why generation stops before its end.
enum Stop {
    /// SIGINT.
    Interrupted,
    /// The results cannot be written.
    Failed(anyhow::Error),
}

impl Printer<'_> {
    /// Decodes new tokens of a row.
    fn decode(&mut self, index: usize, new: &[u32]) -> anyhow::Result<()> {
        let row = &mut self.rows[index];
        row.decoded += new.len();
        if let Some(stream) = &mut row.stream {
            row.waiting.push_str(&stream.push(new)?);
        }
        Ok(())
    }

    /// Writes the part of a row's text that has not been written, after the prompt.
    fn write_text(&mut self, index: usize) -> anyhow::Result<()> {
        let row = &mut self.rows[index];
        if !row.begun {
            row.begun = true;
            if index > 0 {
                self.output.write_all(b"\n")?;
            }
            match &self.prompts[index].text {
                Some(prompt) => self.output.write_all(prompt.as_bytes())?,
                None => {
                    let prompt = self.tokenizer.map(|t| t.decode(&self.ids[index]));
                    let prompt = prompt.transpose()?.unwrap_or_default();
                    self.output.write_all(prompt.as_bytes())?;
                }
            }
        }
        self.output.write_all(row.waiting.as_bytes())?;
        row.waiting.clear();
        Ok(self.output.flush()?)
    }

    fn write_finished(&mut self, generation: &Generation) -> anyhow::Result<()> {
        let index = generation.index;
        let rest = generation.token_ids.get(self.rows[index].decoded..);
        self.decode(index, rest.unwrap_or_default())?;
        let row = &mut self.rows[index];
        let stream = row.stream.take();
        let has_text = stream.is_some();
        if let Some(stream) = stream {
            row.waiting.push_str(&stream.finish()?);
        }
        match self.format {
            OutputFormat::Jsonl => {
                let text = has_text.then_some(row.waiting.as_str());
                write_jsonl(self.output, &self.prompts[index], generation, text)?;
                row.waiting = String::new();
            }
            OutputFormat::Text => {
                self.write_text(index)?;
                self.output.write_all(b"\n")?;
                self.output.flush()?;
            }
        }
        self.current = index + 1;
        // What the next row has produced in the meantime.
        let next = self.rows.get(self.current);
        if self.format == OutputFormat::Text && next.is_some_and(|row| row.decoded > 0) {
            self.write_text(self.current)?;
        }
        Ok(())
    }

    fn tell(&mut self, event: Event<'_>) -> ControlFlow<Stop> {
        let written = match event {
            Event::Tokens { index, new } => {
                self.decode(index, new)
                    .and_then(|()| match index == self.current {
                        true => self.write_text(index),
                        false => Ok(()),
                    })
            }
            Event::Finished(mut generation) => {
                let index = generation.index;
                let (prompt, ids) = (&self.prompts[index], &self.ids[index]);
                let checked = self.numerics.check(prompt, ids, &mut generation);
                checked
                    .map_err(anyhow::Error::from)
                    .and_then(|()| self.write_finished(&generation))
            }
            Event::Shortened { index, to } => {
                warn_shortened(&self.prompts[index], index, to);
                Ok(())
            }
            _ => Ok(()),
        };
        match written.context("cannot write the results") {
            Err(error) => ControlFlow::Break(Stop::Failed(error)),
            Ok(()) if self.interrupted.load(Ordering::Relaxed) => {
                ControlFlow::Break(Stop::Interrupted)
            }
            Ok(()) => ControlFlow::Continue(()),
        }
    }
}

fn warn_shortened(prompt: &Prompt, index: usize, to: usize) {
    terminal::warn(format_args!(
        "{prompt}: prompt {index}: only {to} new tokens fit below max_position_embeddings"
    ));
}
