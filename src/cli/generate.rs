//! `gemma-xla generate`: prompts in, continuations out.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::Outcome;
use super::input::{InputFormat, Prompt, read_prompts};
use super::model::{ModelArgs, load_opened};
use super::output::{Output, OutputFormat, write_jsonl};
use crate::engine::{Engine, Event, GenerateOptions, GenerateSummary, Generation};
use crate::source::Model;
use crate::tokenizer::Tokenizer;

/// Options of `generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompts
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,
    /// File of prompts, - for standard input: a prompt a line, or JSON lines
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Form of the input [default: jsonl for a file named so, else text]
    #[arg(long, value_enum)]
    input_format: Option<InputFormat>,
    /// New tokens a prompt at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    max_new_tokens: usize,
    /// Prompts that are run together
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch_size: usize,
    /// Form of the results [default: jsonl where the input is, else text]
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
    /// File for the results instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Folder of executables that `plan --save` wrote, to load instead of compiling
    #[arg(long, value_name = "DIR")]
    executables: Option<PathBuf>,
    /// Write text as it comes
    #[arg(long)]
    stream: bool,
}

/// Runs the command.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let prompts = read_prompts(&args.prompts, args.input.as_ref(), args.input_format)?;
    let format = args.format.unwrap_or_else(|| default_format(args));

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
        .map(|prompt| prompt.ids(model.tokenizer(), model.folder()))
        .collect::<anyhow::Result<Vec<_>>>()?;

    super::source::leave_interrupts();
    let interrupted = Arc::new(AtomicBool::new(false));
    // The second SIGINT ends the process at once, should a call of the device hang.
    signal_hook::flag::register_conditional_shutdown(
        signal_hook::consts::SIGINT,
        130,
        interrupted.clone(),
    )?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone())?;

    let mut output = Output::open(args.output.as_deref())?;
    let mut options = arguments.options();
    options.executables.clone_from(&args.executables);
    let loaded = load_opened(model, &options)?;
    let engine = loaded.engine();
    if !engine.is_first_process() {
        output = Output::nowhere();
    }
    let mut options = GenerateOptions::default();
    options.max_new_tokens = args.max_new_tokens;
    options.batch_size = args.batch_size;
    options.stream = args.stream && format == OutputFormat::Text;
    let mut printer = Printer {
        format,
        prompts: &prompts,
        ids: &ids,
        tokenizer: loaded.tokenizer(),
        output: output.writer(),
        interrupted: &interrupted,
        rows: ids.iter().map(|_| Progress::default()).collect(),
        current: 0,
    };
    let (summary, flow) = engine.generate_with(&ids, &options, |event| printer.tell(event))?;
    if let ControlFlow::Break(Stop::Failed(error)) = flow {
        return Err(error);
    }
    output.finish()?;
    report(engine, &summary);
    Ok(match flow {
        ControlFlow::Break(_) => Outcome::Interrupted,
        ControlFlow::Continue(()) => Outcome::Done,
    })
}

fn default_format(args: &GenerateArgs) -> OutputFormat {
    let input = args
        .input
        .as_deref()
        .map(|path| args.input_format.unwrap_or_else(|| InputFormat::of(path)));
    match input {
        Some(InputFormat::Jsonl) => OutputFormat::Jsonl,
        _ => OutputFormat::Text,
    }
}

/// Says on standard error where the time went.
fn report(engine: &Engine, summary: &GenerateSummary) {
    let times = engine.times();
    let rate = if times.decode.is_zero() {
        String::new()
    } else {
        let per_step = times.decode.as_secs_f64() * 1e3 / summary.steps.max(1) as f64;
        format!(" ({per_step:.1} ms a step)")
    };
    let cached = if times.cached.is_zero() {
        String::new()
    } else {
        format!(" (cached programs {:.2} s)", times.cached.as_secs_f64())
    };
    eprintln!(
        "{} new tokens on {} × {}: load {:.2} s, compile {:.2} s{cached}, prefill {:.2} s, decode {:.2} s{rate}",
        summary.new_tokens,
        engine.spec().mesh.devices(),
        engine.device_kind(),
        times.load.as_secs_f64(),
        times.compile.as_secs_f64(),
        times.prefill.as_secs_f64(),
        times.decode.as_secs_f64(),
    );
}

/// What has been written of a row that is streamed.
#[derive(Default)]
struct Progress {
    token_ids: Vec<u32>,
    /// Bytes of its text that have been written.
    written: usize,
    begun: bool,
}

/// Writes results in order as they come.
struct Printer<'a> {
    format: OutputFormat,
    prompts: &'a [Prompt],
    ids: &'a [Vec<u32>],
    tokenizer: Option<&'a Tokenizer>,
    output: &'a mut dyn Write,
    interrupted: &'a AtomicBool,
    rows: Vec<Progress>,
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
    fn text(&self, index: usize, token_ids: &[u32]) -> anyhow::Result<Option<String>> {
        let Some(tokenizer) = self.tokenizer else {
            return Ok(None);
        };
        Ok(Some(
            tokenizer.decode_continuation(&self.ids[index], token_ids)?,
        ))
    }

    /// Writes the part of a row's text that has not been written. An incomplete character at the end waits for the
    /// tokens that complete it, unless the row is `finished`.
    fn write_text(&mut self, index: usize, finished: bool) -> anyhow::Result<()> {
        let ids = self.rows[index].token_ids.as_slice();
        let ids = match self.tokenizer {
            Some(tokenizer) if !finished => tokenizer.settled(ids),
            _ => ids,
        };
        let text = self.text(index, ids)?.unwrap_or_default();
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
        if let Some(new) = text.get(row.written..) {
            self.output.write_all(new.as_bytes())?;
            row.written = text.len();
        }
        if finished {
            self.output.write_all(b"\n")?;
        }
        Ok(self.output.flush()?)
    }

    fn write_finished(&mut self, generation: &Generation) -> anyhow::Result<()> {
        let index = generation.index;
        match self.format {
            OutputFormat::Jsonl => {
                let text = self.text(index, &generation.token_ids)?;
                write_jsonl(
                    self.output,
                    &self.prompts[index],
                    generation,
                    text.as_deref(),
                )?;
            }
            OutputFormat::Text => {
                self.rows[index].token_ids.clone_from(&generation.token_ids);
                self.write_text(index, true)?;
            }
        }
        self.current = index + 1;
        // What the next row has produced meanwhile.
        if self
            .rows
            .get(self.current)
            .is_some_and(|row| !row.token_ids.is_empty())
        {
            self.write_text(self.current, false)?;
        }
        Ok(())
    }

    fn tell(&mut self, event: Event<'_>) -> ControlFlow<Stop> {
        let written = match event {
            Event::Tokens { index, new } => {
                self.rows[index].token_ids.extend(new);
                match index == self.current {
                    true => self.write_text(index, false),
                    false => Ok(()),
                }
            }
            Event::Finished(generation) => self.write_finished(&generation),
            Event::Shortened { index, to } => {
                warn_shortened(index, to);
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

fn warn_shortened(index: usize, to: usize) {
    let message = format!("prompt {index}: only {to} new tokens fit below max_position_embeddings");
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[33mwarning:\x1b[0m {message}");
    } else {
        eprintln!("warning: {message}");
    }
}
