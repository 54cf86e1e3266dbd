//! `gemma-xla plan`: whether a model fits on a slice of TPUs, and what a step costs there.

mod cells;
mod instructions;
mod progress;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::Outcome;
use super::source::locate;
use super::terminal::{self, Verbosity};
use crate::compile_cache::CompileCache;
use crate::dtype::DType;
use crate::hub::Wanted;
use crate::plan::{self, ModelSource, Request};
use crate::sampling::SamplingOptions;
use crate::sharding::Mesh;
use progress::Progress;

/// Options of `plan`.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["model", "geometry"])))]
pub struct PlanArgs {
    /// Folder with config.json, with or without weights; or a model on the Hub, whose weights are
    /// not downloaded
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<PathBuf>,
    /// Branch, tag or commit of a model on the Hub
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// A published model's geometry instead: gemma-2b, gemma-2-9b, gemma-3-4b, gemma-4-31b, …
    #[arg(long, value_name = "NAME")]
    geometry: Option<String>,
    /// Slice to plan for, such as v5e:2x2, v5p:2x2x1, v6e:4x4 or v5litepod-8
    #[arg(long, value_name = "NAME")]
    topology: String,
    /// Devices to split over: rows of the batch over data, parameters over model
    #[arg(long, value_name = "data=D,model=M", default_value_t)]
    mesh: Mesh,
    /// Prompts in a batch
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch_size: usize,
    /// Tokens of a row at most, prompt and continuation
    #[arg(long, value_name = "L", default_value_t = 1024)]
    max_length: usize,
    /// Tokens of the longest prompt [default: the largest power of two in half of --max-length]
    #[arg(long, value_name = "P")]
    prompt_tokens: Option<usize>,
    /// Draw tokens at random [default: take the most likely one]
    #[arg(long)]
    do_sample: bool,
    /// How many of the most likely tokens are drawn from; 0 is all [default: 50]
    #[arg(long, value_name = "K", requires = "do_sample")]
    top_k: Option<usize>,
    /// The probability that the most likely tokens must reach together [default: 1]
    #[arg(
        long,
        value_name = "P",
        requires = "do_sample",
        allow_negative_numbers = true
    )]
    top_p: Option<f32>,
    /// Dtype to compute in: bf16, f16 or f32 [default: the checkpoint's; bf16 for a geometry]
    #[arg(long)]
    dtype: Option<DType>,
    /// Price of a chip for an hour: adds the cost of a million tokens
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    price: Option<f64>,
    /// Look for the largest batch and length that fit, or for the smallest mesh: begin no compile
    /// for that after S seconds; 0 not to look
    #[arg(long, value_name = "S", default_value_t = 120)]
    search_seconds: u64,
    /// Save the compiled programs in a folder, for `generate --executables`
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// List the N costliest instructions of the prefill and of a decode step, and sums by scope
    #[arg(long, value_name = "N", default_value_t = 0)]
    instructions: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    /// How tokens are chosen.
    fn sampling(&self) -> SamplingOptions {
        let mut options = SamplingOptions::default();
        options.do_sample = self.do_sample;
        options.top_k = self.top_k.unwrap_or(options.top_k);
        options.top_p = self.top_p.unwrap_or(options.top_p);
        options
    }

    /// Variables for libtpu that must be set before it is loaded, where they are not set. With
    /// `--verbose` libtpu writes its own log lines.
    pub fn environment(&self, verbosity: Verbosity) -> &'static [(&'static str, &'static str)] {
        let asked = std::env::var("GEMMA_XLA_LOG")
            .is_ok_and(|level| level.contains("debug") || level.contains("trace"));
        if verbosity == Verbosity::Verbose || asked {
            &[]
        } else {
            &QUIET_LIBTPU
        }
    }
}

/// libtpu then writes only fatal log lines. Its other errors are returned by its functions.
const QUIET_LIBTPU: [(&str, &str); 1] = [("TPU_MIN_LOG_LEVEL", "3")];

/// Runs the command.
pub fn run(args: &PlanArgs) -> anyhow::Result<Outcome> {
    let source = match (&args.model, &args.geometry) {
        (Some(model), _) => ModelSource::Folder(locate(
            model,
            args.revision.as_deref(),
            Wanted::Configuration,
        )?),
        (None, name) => ModelSource::Named(name.clone().unwrap_or_default()),
    };
    let request = Request {
        source,
        dtype: args.dtype,
        topology: args.topology.clone(),
        mesh: args.mesh,
        batch_size: args.batch_size,
        max_length: args.max_length,
        prompt_tokens: args.prompt_tokens,
        sampling: args.sampling(),
        price: args.price,
        search: Duration::from_secs(args.search_seconds),
        save: args.save.clone(),
        instructions: args.instructions,
        compile_cache: CompileCache::from_environment(),
    };
    let progress = Progress::default();
    let report = plan::plan(&request, &|event| progress.show(event));
    progress.clear();
    let report = report?;
    if args.json {
        terminal::print_json(&report)?;
    } else {
        table::render(&report).print()?;
    }
    Ok(Outcome::Done)
}
