//! What replacing rows gains: replies of very different lengths, in a session whose rows are given
//! to the next prompt as they end, and in batches that wait for their longest reply.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;

use super::run::random_prompts;
use crate::engine::{Engine, Error, Event, GenerateOptions, Job, Result};

/// The workload.
#[derive(Clone, Copy, Debug)]
pub struct JobsOptions {
    /// Prompts.
    pub jobs: usize,
    /// Rows that run together.
    pub batch_size: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// The fewest and the most tokens of a reply. Lengths are lognormal between them.
    pub reply_tokens: (usize, usize),
    /// The median length of a reply.
    pub median: f64,
    /// The standard deviation of the lengths' logarithms.
    pub sigma: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct JobsReport {
    /// Prompts.
    pub jobs: usize,
    /// Rows that run together.
    pub batch_size: usize,
    /// New tokens over all replies.
    pub new_tokens: usize,
    /// The shortest, the median and the longest reply.
    pub reply_tokens: [usize; 3],
    /// Decode steps of the session, and the time of the whole run.
    pub session_steps: usize,
    /// In seconds.
    pub session_s: f64,
    /// Decode steps of the batches, and the time of all of them.
    pub batches_steps: usize,
    /// In seconds.
    pub batches_s: f64,
    /// How many times the tokens a second the session has.
    pub gain: f64,
    /// Whether both gave the same tokens.
    pub tokens_equal: bool,
}

/// Runs the workload both ways, each once before it counts.
///
/// The engine must not stop at an end-of-sequence token
/// ([`LoadOptions::ignore_eos`](crate::engine::LoadOptions::ignore_eos)).
///
/// # Errors
/// More tokens than the model has positions, and whatever [`Engine::generate`] finds.
pub fn measure_jobs(engine: &Engine, options: &JobsOptions) -> Result<JobsReport> {
    let config = &engine.spec().config;
    let (least, most) = options.reply_tokens;
    let total = options.prompt_tokens.saturating_add(most);
    if total > config.max_position_embeddings() {
        return Err(Error::Argument {
            argument: "prompt_tokens",
            problem: format!(
                "{} and replies of {most} are more than max_position_embeddings {}",
                options.prompt_tokens,
                config.max_position_embeddings()
            ),
        });
    }
    let prompts = random_prompts(options.jobs, options.prompt_tokens, config.vocab_size());
    let lengths: Vec<usize> = lognormal(options.jobs, options.median, options.sigma)
        .into_iter()
        .map(|length| (length.round() as usize).clamp(least, most))
        .collect();

    let warm = options.batch_size.min(options.jobs);
    session(engine, options, &prompts[..warm], &lengths[..warm])?;
    let in_session = session(engine, options, &prompts, &lengths)?;
    batches(engine, options, &prompts[..warm], &lengths[..warm])?;
    let in_batches = batches(engine, options, &prompts, &lengths)?;

    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    let at = |share: usize| sorted.get(share).copied().unwrap_or(0);
    Ok(JobsReport {
        jobs: options.jobs,
        batch_size: options.batch_size,
        new_tokens: lengths.iter().sum(),
        reply_tokens: [
            at(0),
            at(options.jobs / 2),
            at(options.jobs.saturating_sub(1)),
        ],
        session_steps: in_session.steps,
        session_s: in_session.seconds,
        batches_steps: in_batches.steps,
        batches_s: in_batches.seconds,
        gain: in_batches.seconds / in_session.seconds,
        tokens_equal: in_session.tokens == in_batches.tokens,
    })
}

/// One run.
struct Run {
    tokens: Vec<Vec<u32>>,
    steps: usize,
    seconds: f64,
}

fn session(
    engine: &Engine,
    options: &JobsOptions,
    prompts: &[Vec<u32>],
    lengths: &[usize],
) -> Result<Run> {
    let mut generate = GenerateOptions::default();
    generate.batch_size = options.batch_size;
    generate.max_new_tokens = options.reply_tokens.1;
    let pairs = prompts.iter().zip(lengths).enumerate();
    let mut jobs = pairs.map(|(index, (prompt, &length))| Job {
        index,
        prompt: prompt.clone(),
        new_tokens: Some(length),
    });
    let mut tokens = Vec::with_capacity(prompts.len());
    let began = Instant::now();
    let (summary, _) = engine.generate_jobs(&mut jobs, &generate, |event| {
        if let Event::Finished(generation) = event {
            tokens.push(generation.token_ids);
        }
        ControlFlow::<Infallible>::Continue(())
    })?;
    Ok(Run {
        tokens,
        steps: summary.steps,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn batches(
    engine: &Engine,
    options: &JobsOptions,
    prompts: &[Vec<u32>],
    lengths: &[usize],
) -> Result<Run> {
    let mut run = Run {
        tokens: Vec::with_capacity(prompts.len()),
        steps: 0,
        seconds: 0.0,
    };
    let began = Instant::now();
    let size = options.batch_size;
    for (prompts, lengths) in prompts.chunks(size).zip(lengths.chunks(size)) {
        let mut generate = GenerateOptions::default();
        generate.batch_size = size;
        // The batch runs until its longest reply ends.
        generate.max_new_tokens = lengths.iter().copied().max().unwrap_or(1);
        let tell = |event: Event<'_>| {
            if let Event::Finished(mut generation) = event {
                generation.token_ids.truncate(lengths[generation.index]);
                run.tokens.push(generation.token_ids);
            }
            ControlFlow::<Infallible>::Continue(())
        };
        let (summary, _) = engine.generate_with(prompts, &generate, tell)?;
        run.steps += summary.steps;
    }
    run.seconds = began.elapsed().as_secs_f64();
    Ok(run)
}

/// Lognormal numbers, the same in every run, by Box and Muller's method from a congruential
/// generator's (Knuth's MMIX) upper bits.
fn lognormal(count: usize, median: f64, sigma: f64) -> Vec<f64> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut normal = || {
        let radius = (-2.0 * uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform()).cos()
    };
    (0..count)
        .map(|_| median * (sigma * normal()).exp())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_lognormal() {
        let mut logs: Vec<f64> = lognormal(20_001, 100.0, 1.0)
            .into_iter()
            .map(f64::ln)
            .collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        logs.sort_by(f64::total_cmp);
        assert!((logs[10_000].exp() / 100.0 - 1.0).abs() < 0.05);
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }
}
