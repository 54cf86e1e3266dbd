//! `gemma-xla bench`: how fast a model runs here, compared with the machine's memory bandwidth.

use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::Outcome;
use super::model::{ModelArgs, load};
use super::sampling::SamplingArgs;
use super::terminal::{self, Page};
use crate::bench::{
    BenchOptions, GrowthOptions, GrowthPoint, JobsOptions, JobsReport, Runs, bandwidth, growth,
    measure_in_turns, measure_jobs, median, peak_resident_bytes, warm_up, work,
};
use crate::compile_cache::CompileCache;
use crate::config::GenerationConfig;
use crate::engine::{Engine, Times};
use crate::sampling::SamplingOptions;

/// The duration of one measurement of read bandwidth.
const READ_TIME: Duration = Duration::from_millis(400);

/// The most that the run's own cache of compiled programs holds.
const CACHE_BYTES: u64 = 1 << 30;

/// Options of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Number of prompts that run together; with --growth the maximum [default: 1; with --growth
    /// 64]
    #[arg(long, value_name = "B", value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    batch_size: Option<usize>,
    /// Tokens of each prompt; with --growth of the longest, new tokens included [default: 32; with
    /// --growth 8192]
    #[arg(long, value_name = "P", value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    prompt_tokens: Option<usize>,
    /// New tokens of each prompt; end-of-sequence tokens are ignored
    #[arg(long, value_name = "N", default_value_t = 97, value_parser = RangedU64ValueParser::<usize>::new().range(2..=i32::MAX as u64))]
    max_new_tokens: usize,
    /// Measured runs, after a warm-up run
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    repeat: usize,
    /// Measure how a step's time grows instead: with the context, the batch, and the steps run
    #[arg(long, conflicts_with = "repeat")]
    growth: bool,
    /// Measure replies of lognormal lengths instead, from 10 to 1000 tokens: in a session whose rows
    /// are given to the next prompt, and in batches that wait for their longest reply
    #[arg(long, value_name = "N", conflicts_with_all = ["growth", "repeat", "max_new_tokens"], value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    jobs: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Serialize)]
struct Subject {
    model: String,
    dtype: String,
    device: String,
    mesh: String,
    cores: usize,
    version: &'static str,
}

/// What `--json` prints; seconds, bytes, and 10⁹ bytes or 10¹² operations a second.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    subject: Subject,
    batch_size: usize,
    prompt_tokens: usize,
    max_new_tokens: usize,
    repeat: usize,
    parameter_bytes: u64,
    read_bandwidth_gbs: f64,
    load_s: f64,
    load_gbs: f64,
    compile_s: f64,
    compile_cached_s: f64,
    prefill_s: f64,
    prefill_tflops: f64,
    decode_step_s: f64,
    decode_tokens_per_s: f64,
    decode_bandwidth_gbs: f64,
    decode_bandwidth_ratio: f64,
    /// A step that takes the most likely token, where the others draw one, and how many times as
    /// long one that draws takes: the two take turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    greedy_step_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling_ratio: Option<f64>,
    /// Of this process until the end of loading, and until its end; null where the system does not
    /// say.
    load_peak_rss_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
    /// Of each run: its prefill, and the time of a step in each call of the decode loop.
    prefills_s: Vec<f64>,
    decode_steps_s: Vec<Vec<f64>>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    let mut options = args.model.options();
    options.ignore_eos = true;
    // A cache of its own: the first run compiles whatever was run before, and the second finds what
    // the first has kept.
    let cache = tempfile::tempdir().context("cannot make a temporary folder")?;
    options.compile_cache = CompileCache::in_folder(cache.path().to_owned(), CACHE_BYTES);
    let loaded = load(&args.model.located()?.model, &options)?;
    let engine = loaded.engine();
    if args.growth {
        return run_growth(args, engine);
    }
    if let Some(jobs) = args.jobs {
        return run_jobs(args, engine, jobs);
    }
    let load_peak_rss_bytes = peak_resident_bytes();
    let report = run_bench(args, engine, load_peak_rss_bytes)?;
    if args.json {
        terminal::print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(Outcome::Done)
}

fn run_bench(
    args: &BenchArgs,
    engine: &Engine,
    load_peak_rss_bytes: Option<u64>,
) -> anyhow::Result<Report> {
    let options = BenchOptions {
        batch_size: args.batch_size.unwrap_or(1),
        prompt_tokens: args.prompt_tokens.unwrap_or(32),
        max_new_tokens: args.max_new_tokens,
        repeat: args.repeat,
        sampling: args.sampling.options(&GenerationConfig::default(), None)?,
    };
    let greedy = SamplingOptions::default();
    let mut samplings = vec![&options.sampling];
    if !options.sampling.is_greedy() {
        samplings.push(&greedy);
    }
    for &sampling in &samplings {
        let sampling = sampling.clone();
        warm_up(
            engine,
            &BenchOptions {
                sampling,
                ..options.clone()
            },
        )?;
    }
    let compiled = programs_time(engine.times());
    engine.forget_programs();
    // Reading is measured around the runs: other work on the machine comes and goes.
    let before = read_bandwidth_apart()?;
    let mut measured = measure_in_turns(engine, &options, &samplings)?.into_iter();
    let runs = measured.next().unwrap_or_default();
    let beside = measured.next();
    let after = read_bandwidth_apart()?;
    let cached = programs_time(engine.times()) - compiled;

    let spec = engine.spec();
    let read = (before + after) / 2.0;
    let load = engine.times().load.as_secs_f64();
    let parameter_bytes = work::parameter_bytes(spec);
    let prefill = median(&runs.prefills).context("no prefill was measured")?;
    let step = runs.step().context("no decode step was measured")?;
    let filled = options.prompt_tokens as f64 + args.max_new_tokens as f64 / 2.0;
    let decode = work::decode_step_bytes(spec, options.batch_size, filled) / step / 1e9;
    let operations = work::prefill_operations(spec, options.batch_size, options.prompt_tokens);
    let steps = runs.calls.iter();
    Ok(Report {
        subject: subject(args, engine),
        batch_size: options.batch_size,
        prompt_tokens: options.prompt_tokens,
        max_new_tokens: args.max_new_tokens,
        repeat: args.repeat,
        parameter_bytes,
        read_bandwidth_gbs: read,
        load_s: load,
        load_gbs: parameter_bytes as f64 / load / 1e9,
        compile_s: compiled.as_secs_f64(),
        compile_cached_s: cached.as_secs_f64(),
        prefill_s: prefill,
        prefill_tflops: operations / prefill / 1e12,
        decode_step_s: step,
        decode_tokens_per_s: options.batch_size as f64 / step,
        decode_bandwidth_gbs: decode,
        decode_bandwidth_ratio: decode / read,
        greedy_step_s: beside.as_ref().and_then(Runs::step),
        sampling_ratio: beside.as_ref().and_then(|beside| runs.ratio_to(beside)),
        load_peak_rss_bytes,
        peak_rss_bytes: peak_resident_bytes(),
        decode_steps_s: steps
            .map(|calls| calls.iter().map(|&(_, time)| time).collect())
            .collect(),
        prefills_s: runs.prefills,
    })
}

/// What the engine has spent on getting programs, from the compiler or the cache.
fn programs_time(times: Times) -> Duration {
    times.compile + times.cached
}

fn subject(args: &BenchArgs, engine: &Engine) -> Subject {
    Subject {
        model: args.model.model.display().to_string(),
        dtype: engine.spec().compute.to_string(),
        device: engine.device_kind().to_owned(),
        mesh: engine.spec().mesh.to_string(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Measures reading in a process of its own, since its buffer must not count as memory of the
/// model's run.
fn read_bandwidth_apart() -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("cannot tell this program's own file")?;
    let output = Command::new(&program)
        .arg("read-bandwidth")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "measuring read bandwidth failed: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .with_context(|| format!("measuring read bandwidth gave {text:?}"))
}

/// `gemma-xla read-bandwidth`.
pub fn print_read_bandwidth() -> anyhow::Result<Outcome> {
    let found = bandwidth::read_bandwidth(&bandwidth::buffer(), READ_TIME);
    terminal::print(&format!("{found}\n"))?;
    Ok(Outcome::Done)
}

fn print(r: &Report) -> anyhow::Result<()> {
    let s = &r.subject;
    let mut out = Page::default();
    writeln!(
        out,
        "{} {} on {} ({} cores), mesh {}: batch {}, {} prompt and {} new tokens, median of {}",
        s.model,
        s.dtype,
        s.device,
        s.cores,
        s.mesh,
        r.batch_size,
        r.prompt_tokens,
        r.max_new_tokens,
        r.repeat
    )?;
    let mut row = |name: &str, value: String| writeln!(out, "{name:<16} {value}");
    row(
        "parameters",
        format!("{:.3} GB", r.parameter_bytes as f64 / 1e9),
    )?;
    row("memory reads", format!("{:.1} GB/s", r.read_bandwidth_gbs))?;
    row("load", format!("{:.2} s, {:.2} GB/s", r.load_s, r.load_gbs))?;
    row(
        "programs",
        format!("{:.2} s, again {:.2} s", r.compile_s, r.compile_cached_s),
    )?;
    row(
        "prefill",
        format!(
            "{:.1} ms, {:.3} TFLOP/s",
            r.prefill_s * 1e3,
            r.prefill_tflops
        ),
    )?;
    row(
        "decode",
        format!(
            "{:.2} ms per step, {:.1} tokens/s, {:.1} GB/s: {:.2} of memory reads",
            r.decode_step_s * 1e3,
            r.decode_tokens_per_s,
            r.decode_bandwidth_gbs,
            r.decode_bandwidth_ratio
        ),
    )?;
    if let (Some(greedy), Some(ratio)) = (r.greedy_step_s, r.sampling_ratio) {
        row(
            "sampling",
            format!(
                "{ratio:.3} times a greedy step, which takes {:.2} ms",
                greedy * 1e3
            ),
        )?;
    }
    if let (Some(load), Some(peak)) = (r.load_peak_rss_bytes, r.peak_rss_bytes) {
        let of_parameters = |bytes: u64| bytes as f64 / r.parameter_bytes.max(1) as f64;
        row(
            "peak memory",
            format!(
                "{:.3} GB, {:.2} times the parameters; at the end of loading {:.3} GB, {:.2} times",
                peak as f64 / 1e9,
                of_parameters(peak),
                load as f64 / 1e9,
                of_parameters(load)
            ),
        )?;
    }
    out.print()
}

/// `--jobs`.
fn run_jobs(args: &BenchArgs, engine: &Engine, jobs: usize) -> anyhow::Result<Outcome> {
    let prompt_tokens = args.prompt_tokens.unwrap_or(32);
    let positions = engine.spec().config.max_position_embeddings();
    let options = JobsOptions {
        jobs,
        batch_size: args.batch_size.unwrap_or(8),
        prompt_tokens,
        reply_tokens: (10, 1000.min(positions.saturating_sub(prompt_tokens))),
        median: 100.0,
        sigma: 1.0,
    };
    let found = measure_jobs(engine, &options)?;
    if args.json {
        #[derive(Serialize)]
        struct Report<'a> {
            #[serde(flatten)]
            subject: Subject,
            #[serde(flatten)]
            jobs: &'a JobsReport,
        }
        let subject = subject(args, engine);
        terminal::print_json(&Report {
            subject,
            jobs: &found,
        })?;
        return Ok(Outcome::Done);
    }
    let mut out = Page::default();
    let [shortest, middle, longest] = found.reply_tokens;
    writeln!(
        out,
        "{} prompts, batch {}: {} new tokens, {shortest} to {longest} a reply, median {middle}",
        found.jobs, found.batch_size, found.new_tokens
    )?;
    for (name, steps, seconds) in [
        ("rows replaced", found.session_steps, found.session_s),
        ("fixed batches", found.batches_steps, found.batches_s),
    ] {
        let rate = found.new_tokens as f64 / seconds;
        writeln!(
            out,
            "{name:<16} {seconds:.2} s, {steps} steps, {rate:.1} tokens/s"
        )?;
    }
    let equal = match found.tokens_equal {
        true => "the tokens are equal",
        false => "the tokens differ",
    };
    writeln!(out, "{:<16} {:.2} times; {equal}", "gain", found.gain)?;
    out.print()?;
    Ok(Outcome::Done)
}

/// `--growth`.
fn run_growth(args: &BenchArgs, engine: &Engine) -> anyhow::Result<Outcome> {
    let new_tokens = args.max_new_tokens.min(64);
    let powers = |from: usize, to: usize| {
        std::iter::successors(Some(from), |size| size.checked_mul(2)).take_while(move |&s| s <= to)
    };
    let options = GrowthOptions {
        contexts: powers(128, args.prompt_tokens.unwrap_or(8192))
            .map(|context| context - new_tokens)
            .collect(),
        batches: powers(1, args.batch_size.unwrap_or(64)).collect(),
        prompt_tokens: 64,
        max_new_tokens: new_tokens,
        steps: 1024,
    };
    let is_terminal = std::io::stderr().is_terminal();
    let found = growth(engine, &options, |point| {
        if is_terminal {
            terminal::note(growth_line(point));
        }
    })?;
    if args.json {
        #[derive(Serialize)]
        struct Report<'a> {
            #[serde(flatten)]
            subject: Subject,
            #[serde(flatten)]
            growth: &'a crate::bench::Growth,
        }
        let subject = subject(args, engine);
        let growth = &found;
        terminal::print_json(&Report { subject, growth })?;
        return Ok(Outcome::Done);
    }
    let mut out = Page::default();
    writeln!(out, "batch  prompt ms per step     GB/s  prefill s")?;
    for point in found.contexts.iter().chain(&found.batches) {
        writeln!(out, "{}", growth_line(point))?;
    }
    writeln!(
        out,
        "{} steps: {:.3} ms per step in the first half, {:.3} ms in the second",
        found.steps.steps,
        found.steps.first_half_step_s * 1e3,
        found.steps.second_half_step_s * 1e3
    )?;
    out.print()?;
    Ok(Outcome::Done)
}

fn growth_line(point: &GrowthPoint) -> String {
    format!(
        "{:>5} {:>7} {:>11.3} {:>8.1} {:>10.3}",
        point.batch_size,
        point.prompt_tokens,
        point.decode_step_s * 1e3,
        point.decode_bandwidth_gbs,
        point.prefill_s
    )
}
