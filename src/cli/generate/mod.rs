//! `gemma-xla generate`: prompts in, continuations out.

mod printer;
mod resume;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressStyle};

use super::input::{Encoder, InputFormat, Prompt, Prompts, ReadPrompt};
use super::model::{ModelArgs, load_opened};
use super::numerics::Numerics;
use super::output::{LineOptions, Output, OutputFormat};
use super::sampling::{ReplyArgs, SamplingArgs};
use super::{Outcome, signals, terminal};
use crate::engine::{self, Engine, GenerateOptions, GenerateSummary, Job, Workload};
use crate::sampling::StopStrings;
use crate::source::Model;
use printer::{Printer, Stop};
use resume::Resumed;

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
    /// Take prompts as messages of a conversation and render them with the model's chat template
    #[arg(long)]
    chat: bool,
    /// Maximum number of new tokens per prompt [default: the model's own, else 20]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    max_new_tokens: Option<usize>,
    /// Number of prompts that run together
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch_size: usize,
    /// Format of the results [default: jsonl where the input is, else text]
    #[arg(long, value_enum)]
    format: Option<OutputFormat>,
    /// File for the results instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the results into --output as they come, and continue there after an interruption
    #[arg(long, requires = "output")]
    resume: bool,
    /// Run every N-th prompt, from prompt I on, counted from 0
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// End the run at the first prompt that fails
    #[arg(long)]
    strict: bool,
    /// Folder of executables that `plan --save` wrote, to load instead of compiling
    #[arg(long, value_name = "DIR")]
    executables: Option<PathBuf>,
    /// Look at the logits of each row and, where they are not numbers, name the first layer with
    /// such values; without it only rows whose tokens look like it are looked at
    #[arg(long)]
    check_numerics: bool,
    /// Write text as it is generated; with JSON lines, a line for each piece
    #[arg(long)]
    stream: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    replies: ReplyArgs,
}

/// Which prompts are run: every `count`-th, from `index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    const WHOLE: Self = Self { index: 0, count: 1 };

    fn parse(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => bail!("--shard {text:?}: expected I/N with I from 0 to N - 1, such as 0/4"),
        }
    }

    fn has(self, prompt: usize) -> bool {
        prompt % self.count == self.index
    }
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

    /// What to generate with a model, checked.
    fn generate_options(
        &self,
        model: &Model,
        format: OutputFormat,
    ) -> anyhow::Result<GenerateOptions> {
        let defaults = model.generation();
        let mut sampling = self.sampling.options(defaults, model.tokenizer())?;
        self.replies.apply(&mut sampling);
        if self.replies.has_logprobs() && format == OutputFormat::Text {
            bail!("--logprobs needs --format jsonl: the text format has no place for them");
        }
        let mut options = GenerateOptions::from(defaults);
        if let Some(count) = self.max_new_tokens {
            (options.max_new_tokens, options.max_length) = (count, None);
        }
        options.batch_size = self.batch_size;
        options.stream = self.stream;
        options.watch = !sampling.stop.is_empty();
        options.sampling = sampling;
        let vocabulary = model.config().vocab_size();
        options
            .sampling
            .validate(vocabulary, options.max_new_tokens)?;
        Ok(options)
    }
}

/// Runs the command.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Outcome> {
    let shard = args.shard.as_deref().map(Shard::parse).transpose()?;
    let (arguments, input) = args.sources();
    let prompts = Prompts::open(&arguments, input, args.input_format)?;
    let format = args.format.unwrap_or(match prompts.format() {
        Some(InputFormat::Jsonl) => OutputFormat::Jsonl,
        _ => OutputFormat::Text,
    });
    ensure!(
        !args.resume || format == OutputFormat::Jsonl,
        "--resume needs --format jsonl: a text does not say which prompts are done"
    );

    let model_args = args.model.located()?;
    let model = Model::open(&model_args.model)?;
    if model.tokenizer().is_none() && format == OutputFormat::Text {
        bail!(
            "--format text: {} has neither tokenizer.json nor tokenizer.model; use --format jsonl",
            model.folder().display()
        );
    }
    let chat = match args.chat {
        true => Some(model.chat_template()?),
        false => None,
    };
    let generate = args.generate_options(&model, format)?;
    let stops = StopStrings::new(&generate.sampling.stop)?;

    let folder = model.folder().to_path_buf();
    let positions = model.config().max_position_embeddings();
    let encoding = Encoder {
        tokenizer: None,
        chat: chat.as_ref(),
        model: &folder,
        positions,
    };
    // A file whose prompts all fit in one batch is one call of Flax's `generate`.
    let replies = generate.sampling.num_return_sequences;
    let mut source = Source {
        prompts,
        shard: shard.unwrap_or(Shard::WHOLE),
        next: 0,
        after: None,
    };
    let is_job = args.resume || shard.is_some();
    let most = match is_job {
        true => 0,
        false => generate.batch_size / replies,
    };
    let first: Vec<Numbered> = source.by_ref().take(most + 1).collect();
    let is_job = is_job || first.len() > most;
    let is_strict = args.strict || !is_job || format == OutputFormat::Text;

    let resumed = match args.resume {
        true => {
            let run = resume::fingerprint(&model, &model_args, &generate, source.shard, args.chat)?;
            let resumed = Resumed::open(args.output.as_deref(), &run, source.shard, replies)?;
            source.after = resumed.last;
            Some(resumed)
        }
        false => None,
    };
    let mut items = first
        .into_iter()
        .filter(|(index, _)| source.is_wanted(*index));
    let mut begun = Vec::new();
    for (index, prompt) in items.by_ref() {
        begun.push(prepare(index, prompt, encoding.with(model.tokenizer())));
    }
    drop(items);
    if is_strict {
        // What can be said before the model is loaded is said then.
        if let Some(failed) = begun.iter().position(|item| item.ids.is_err()) {
            let failed = begun.swap_remove(failed);
            return Err(failed.ids.expect_err("it was found by its error"));
        }
    }

    let interrupted = signals::deferred();

    let mut output = match resumed {
        Some(resumed) => Output::Stream(Box::new(resumed.file)),
        None => Output::open("--output", args.output.as_deref())?,
    };
    let mut options = model_args.options();
    options.executables.clone_from(&args.executables);
    let lengths = begun.iter().filter_map(|item| item.ids.as_ref().ok());
    let lengths = lengths.map(Vec::len).collect();
    options.workload = Some(match is_job {
        true => Workload::Jobs(lengths, generate.clone()),
        false => Workload::Prompts(lengths, generate.clone()),
    });
    let loaded = load_opened(model, &options)?;
    let engine = loaded.engine();
    if !engine.is_first_process() {
        output = Output::nowhere();
    }
    let tokenizer = loaded.tokenizer();
    let printer = RefCell::new(Printer {
        format,
        tokenizer,
        stops: &stops,
        streams: args.stream,
        output: output.writer(),
        interrupted: &interrupted,
        numerics: Numerics::new(engine, args.check_numerics),
        replies,
        line: LineOptions {
            has_sequences: replies > 1,
            has_logprobs: args.replies.has_logprobs(),
        },
        queue: Default::default(),
        has_begun: false,
        failed: 0,
    });

    let run = match is_job {
        false => {
            let mut ids = Vec::new();
            for item in begun {
                let prompt_ids = item.ids?;
                printer
                    .borrow_mut()
                    .add(item.index, item.prompt, &prompt_ids);
                ids.push(prompt_ids);
            }
            engine.generate_with(&ids, &generate, |event| printer.borrow_mut().tell(event))
        }
        true => {
            let bar = progress(&source.prompts);
            let failure = RefCell::new(None);
            let mut begun = begun.into_iter();
            let mut jobs = std::iter::from_fn(|| {
                loop {
                    let item = match begun.next() {
                        Some(item) => item,
                        None => {
                            let (index, prompt) = source.next()?;
                            prepare(index, prompt, encoding.with(tokenizer))
                        }
                    };
                    if let (Some(bar), Some((read, _))) = (&bar, source.prompts.progress()) {
                        bar.set_position(read);
                    }
                    let index = item.index;
                    let checked = item.ids.and_then(|prompt| {
                        let job = Job {
                            index,
                            prompt,
                            new_tokens: None,
                        };
                        match engine.check_job(&job) {
                            Ok(()) => Ok(job),
                            Err(error) => Err(place(error, item.prompt.as_ref())),
                        }
                    });
                    let mut printer = printer.borrow_mut();
                    match checked {
                        Ok(job) => {
                            printer.add(index, item.prompt, &job.prompt);
                            return Some(job);
                        }
                        Err(error) if is_strict => {
                            *failure.borrow_mut() = Some(error);
                            return None;
                        }
                        Err(error) => printer.fail(index, item.prompt, &error),
                    }
                }
            });
            let run = engine.generate_jobs(&mut jobs, &generate, |event| {
                printer.borrow_mut().tell(event)
            });
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            if let Some(error) = failure.into_inner() {
                return Err(error);
            }
            run
        }
    };
    let mut printer = printer.into_inner();
    let (summary, flow) = run.map_err(|error| {
        let prompt = index_of(&error).and_then(|index| printer.prompt(index));
        place(error, prompt)
    })?;
    if let ControlFlow::Break(Stop::Failed(failure)) = flow {
        return closed_or(failure);
    }
    let failed = match printer.finish() {
        Ok(failed) => failed,
        Err(failure) => return closed_or(failure),
    };
    if let Err(failure) = output.finish() {
        return closed_or(failure);
    }
    if failed > 0 {
        terminal::warn(format_args!(
            "{failed} prompts failed; their lines have an \"error\" (--strict ends the run there)"
        ));
    }
    report(engine, &summary);
    Ok(match flow {
        ControlFlow::Break(_) => Outcome::Interrupted,
        ControlFlow::Continue(()) => Outcome::Done,
    })
}

/// A prompt with its place in the input.
type Numbered = (usize, ReadPrompt);

/// The prompts that this run has, numbered.
struct Source {
    prompts: Prompts,
    shard: Shard,
    next: usize,
    /// The last prompt that an earlier run has done.
    after: Option<usize>,
}

impl Source {
    fn is_wanted(&self, index: usize) -> bool {
        self.shard.has(index) && self.after.is_none_or(|after| index > after)
    }
}

impl Iterator for Source {
    type Item = Numbered;

    fn next(&mut self) -> Option<Numbered> {
        loop {
            let read = self.prompts.next()?;
            let index = self.next;
            self.next += 1;
            if self.is_wanted(index) {
                return Some((index, read));
            }
        }
    }
}

/// A prompt with its token ids, or why it has none.
struct Prepared {
    index: usize,
    prompt: Option<Prompt>,
    ids: anyhow::Result<Vec<u32>>,
}

fn prepare(index: usize, read: ReadPrompt, encoder: Encoder<'_>) -> Prepared {
    match read {
        Ok(prompt) => Prepared {
            ids: prompt.ids(encoder),
            prompt: Some(prompt),
            index,
        },
        Err(bad) => Prepared {
            ids: Err(bad.error),
            prompt: None,
            index,
        },
    }
}

/// A bar over the bytes of the input, where their number is known.
fn progress(prompts: &Prompts) -> Option<ProgressBar> {
    let (_, size) = prompts.progress()?;
    let template = "[{bar:30}] {bytes}/{total_bytes} of the input, {elapsed}, about {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(size).with_style(style.progress_chars("=> "));
    Some(terminal::bar(bar))
}

/// A reader that closes the output has what it wants: `generate … | head` ends without an error.
fn closed_or(failure: anyhow::Error) -> anyhow::Result<Outcome> {
    match terminal::is_broken_pipe(&failure) {
        true => Ok(Outcome::Done),
        false => Err(failure),
    }
}

/// The prompt that an error is about.
fn index_of(error: &engine::Error) -> Option<usize> {
    match error {
        engine::Error::EmptyPrompt { index }
        | engine::Error::PromptTooLong { index, .. }
        | engine::Error::TokenOutOfRange { index, .. } => Some(*index),
        _ => None,
    }
}

/// Adds the prompt's file, line and id to an error about it.
fn place(error: engine::Error, prompt: Option<&Prompt>) -> anyhow::Error {
    match prompt {
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

#[cfg(test)]
mod tests {
    use super::Shard;

    #[test]
    fn shards_have_each_prompt_once() {
        let shards: Vec<Shard> = (0..3)
            .map(|i| Shard::parse(&format!("{i}/3")).expect("valid"))
            .collect();
        for prompt in 0..20 {
            assert_eq!(shards.iter().filter(|shard| shard.has(prompt)).count(), 1);
        }
        for text in ["3/3", "1", "/", "0/0", "-1/2", "1/2/3", "a/b"] {
            assert!(Shard::parse(text).is_err(), "{text}");
        }
    }
}
