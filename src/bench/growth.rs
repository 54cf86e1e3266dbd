//! How the time of a step grows: with the tokens in the caches, with the rows of the batch, and
//! with the steps run.

use serde::Serialize;

use super::run::{BenchOptions, run_once};
use super::work::decode_step_bytes;
use super::{median, run};
use crate::engine::{Engine, Result};
use crate::sampling::SamplingOptions;

/// What is run.
#[derive(Clone, Debug)]
pub struct GrowthOptions {
    /// Lengths of prompts to run one row with.
    pub contexts: Vec<usize>,
    /// Sizes of batches to run with prompts of `prompt_tokens`.
    pub batches: Vec<usize>,
    /// The length of prompts where only the batch grows.
    pub prompt_tokens: usize,
    /// New tokens of every run but the long one.
    pub max_new_tokens: usize,
    /// New tokens of the run whose first and last steps are compared.
    pub steps: usize,
}

/// The time of a step at one size.
#[derive(Clone, Debug, Serialize)]
pub struct GrowthPoint {
    /// Rows.
    pub batch_size: usize,
    /// Tokens of each row's prompt.
    pub prompt_tokens: usize,
    /// Median time of a step.
    pub decode_step_s: f64,
    /// What the step has to read ([`decode_step_bytes`]) over its time, in 10⁹ bytes a second.
    pub decode_bandwidth_gbs: f64,
    /// Time of the prompts.
    pub prefill_s: f64,
}

/// Early and late steps of one long run.
#[derive(Clone, Debug, Serialize)]
pub struct StepsOfARun {
    /// Steps run.
    pub steps: usize,
    /// Median time of a step in the first half of the calls.
    pub first_half_step_s: f64,
    /// Median time of a step in the second half.
    pub second_half_step_s: f64,
}

/// How the time of a step grows.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// One row, growing prompts.
    pub contexts: Vec<GrowthPoint>,
    /// Short prompts, growing batches.
    pub batches: Vec<GrowthPoint>,
    /// One row, many steps.
    pub steps: StepsOfARun,
}

/// Measures each size once, after a run that does not count. Sizes beyond the model's positions are
/// left out.
///
/// # Errors
/// As [`measure`](super::measure).
pub fn growth(
    engine: &Engine,
    options: &GrowthOptions,
    mut progress: impl FnMut(&GrowthPoint),
) -> Result<Growth> {
    let positions = engine.spec().config.max_position_embeddings();
    let mut point = |batch_size: usize, prompt_tokens: usize| {
        let options = BenchOptions {
            batch_size,
            prompt_tokens,
            max_new_tokens: options.max_new_tokens,
            repeat: 1,
            sampling: SamplingOptions::default(),
        };
        let runs = run::measure(engine, &options)?;
        let decode_step_s = runs.step().unwrap_or(f64::NAN);
        let filled = prompt_tokens as f64 + options.max_new_tokens as f64 / 2.0;
        let bytes = decode_step_bytes(engine.spec(), batch_size, filled);
        let point = GrowthPoint {
            batch_size,
            prompt_tokens,
            decode_step_s,
            decode_bandwidth_gbs: bytes / decode_step_s / 1e9,
            prefill_s: median(&runs.prefills).unwrap_or(f64::NAN),
        };
        progress(&point);
        Ok(point)
    };
    let fits = |tokens: &&usize| **tokens + options.max_new_tokens <= positions;
    let contexts = options.contexts.iter().filter(fits);
    let contexts = contexts.map(|&tokens| point(1, tokens));
    let contexts = contexts.collect::<Result<Vec<_>>>()?;
    let batches = options.batches.iter();
    let batches = batches.map(|&rows| point(rows, options.prompt_tokens));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let steps = steps_of_a_run(engine, options)?;
    Ok(Growth {
        contexts,
        batches,
        steps,
    })
}

/// Compares early with late steps of one run: its program, and what it reads, are the same in all
/// of them.
fn steps_of_a_run(engine: &Engine, options: &GrowthOptions) -> Result<StepsOfARun> {
    let positions = engine.spec().config.max_position_embeddings();
    let options = BenchOptions {
        batch_size: 1,
        prompt_tokens: 1,
        max_new_tokens: options.steps.min(positions.saturating_sub(1)),
        repeat: 1,
        sampling: SamplingOptions::default(),
    };
    run_once(engine, &options)?;
    let calls = run_once(engine, &options)?.calls;
    let times: Vec<f64> = calls.iter().map(|&(_, time)| time).collect();
    let (first, second) = times.split_at(times.len() / 2);
    Ok(StepsOfARun {
        steps: calls.iter().map(|&(steps, _)| steps).sum(),
        first_half_step_s: median(first).unwrap_or(f64::NAN),
        second_half_step_s: median(second).unwrap_or(f64::NAN),
    })
}
