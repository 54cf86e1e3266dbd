//! Runs a model on random prompts and keeps the times.

use std::convert::Infallible;
use std::ops::ControlFlow;

use crate::engine::{Engine, Error, Event, GenerateOptions, Result};
use crate::sampling::SamplingOptions;

/// What is run.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Prompts that are run together, at least 1.
    pub batch_size: usize,
    /// Tokens of each, at least 1.
    pub prompt_tokens: usize,
    /// New tokens of each, at least 2: the first comes from the prefill and each other from a
    /// decode step.
    pub max_new_tokens: usize,
    /// How often the same is run, at least 1.
    pub repeat: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
}

/// Times of equal runs, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    /// Each run's prefill: from the prompts on the host to the first tokens on the host.
    pub prefills: Vec<f64>,
    /// Of each run, the time of a step in each call of the decode loop, in order, and how many
    /// steps the call ran.
    pub calls: Vec<Vec<(usize, f64)>>,
}

impl Runs {
    /// The median time of a step, over the steps of all runs: each step counts with the mean of its
    /// call.
    pub fn step(&self) -> Option<f64> {
        super::median(&self.steps())
    }

    /// How many times as long a step takes as one of `others`, which took turns with these: the
    /// median over calls, each beside the one that ran next to it.
    pub fn ratio_to(&self, others: &Runs) -> Option<f64> {
        let pairs = self.calls.iter().zip(&others.calls);
        let ratios: Vec<f64> = pairs
            .flat_map(|(calls, others)| calls.iter().zip(others))
            .map(|((_, time), (_, other))| time / other)
            .collect();
        super::median(&ratios)
    }

    /// The time of every step.
    fn steps(&self) -> Vec<f64> {
        let calls = self.calls.iter().flatten();
        calls
            .flat_map(|&(steps, time)| std::iter::repeat_n(time, steps))
            .collect()
    }

    fn add(&mut self, run: Clock) {
        self.prefills.extend(run.prefill);
        self.calls.push(run.calls);
    }
}

/// Runs `options.repeat` times after a run that does not count.
///
/// The engine must not stop at an end-of-sequence token
/// ([`LoadOptions::ignore_eos`](crate::engine::LoadOptions::ignore_eos)).
///
/// # Errors
/// Options out of range, more tokens than the model has positions, and whatever
/// [`Engine::generate`] finds.
pub fn measure(engine: &Engine, options: &BenchOptions) -> Result<Runs> {
    let runs = measure_in_turns(engine, options, &[&options.sampling])?;
    Ok(runs.into_iter().next().unwrap_or_default())
}

/// The same with each of several ways to choose tokens in place of that of `options`, which take
/// turns: other work on the machine comes and goes. There are as many results.
///
/// # Errors
/// As [`measure`].
pub fn measure_in_turns(
    engine: &Engine,
    options: &BenchOptions,
    samplings: &[&SamplingOptions],
) -> Result<Vec<Runs>> {
    let of_each: Vec<BenchOptions> = samplings
        .iter()
        .map(|&sampling| BenchOptions {
            sampling: sampling.clone(),
            ..options.clone()
        })
        .collect();
    for options in &of_each {
        warm_up(engine, options)?;
    }
    let mut runs = vec![Runs::default(); of_each.len()];
    for _ in 0..options.repeat.max(1) {
        for (runs, options) in runs.iter_mut().zip(&of_each) {
            runs.add(run_once(engine, options)?);
        }
    }
    Ok(runs)
}

/// One run that does not count: it gets the programs and touches memory that is new.
///
/// # Errors
/// As [`measure`].
pub fn warm_up(engine: &Engine, options: &BenchOptions) -> Result<()> {
    run_once(engine, options).map(|_| ())
}

/// One run of prefill and decode loop.
pub(super) fn run_once(engine: &Engine, options: &BenchOptions) -> Result<Clock> {
    let config = &engine.spec().config;
    if options.max_new_tokens < 2 {
        return Err(Error::Argument {
            argument: "max_new_tokens",
            problem: format!(
                "{}: the first token is the prefill's, so there is no decode step to measure below 2",
                options.max_new_tokens
            ),
        });
    }
    let total = options.prompt_tokens.saturating_add(options.max_new_tokens);
    if total > config.max_position_embeddings() {
        return Err(Error::Argument {
            argument: "prompt_tokens",
            problem: format!(
                "{} and max_new_tokens {} are more than max_position_embeddings {}",
                options.prompt_tokens,
                options.max_new_tokens,
                config.max_position_embeddings()
            ),
        });
    }
    let prompts = random_prompts(
        options.batch_size,
        options.prompt_tokens,
        config.vocab_size(),
    );
    let generate = GenerateOptions {
        max_new_tokens: options.max_new_tokens,
        batch_size: options.batch_size,
        sampling: options.sampling.clone(),
        ..GenerateOptions::default()
    };
    let mut clock = Clock::default();
    let tell = |event: Event<'_>| -> ControlFlow<Infallible> {
        clock.note(&event);
        ControlFlow::Continue(())
    };
    let (summary, _) = engine.generate_with(&prompts, &generate, tell)?;
    let expected = options.max_new_tokens - 1;
    if summary.steps != expected {
        return Err(Error::UnexpectedResult {
            program: "decode",
            expected: format!("{expected} steps"),
            found: summary.steps.to_string(),
        });
    }
    Ok(clock)
}

/// `batch` prompts of `tokens` ids below `vocab_size`, the same in every run: a congruential
/// generator's (Knuth's MMIX) upper bits.
pub fn random_prompts(batch: usize, tokens: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % (vocab_size.max(1) as u64)) as u32
    };
    (0..batch)
        .map(|_| (0..tokens).map(|_| next()).collect())
        .collect()
}

/// What one run took.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    pub prefill: Option<f64>,
    /// Steps of each call of the decode loop and the time of one of them.
    pub calls: Vec<(usize, f64)>,
}

impl Clock {
    fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Prefilled(took) => self.prefill = Some(took.as_secs_f64()),
            Event::Decoded { steps, took } => {
                let step = took.as_secs_f64() / (*steps).max(1) as f64;
                self.calls.push((*steps, step));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_of_the_size_asked_for_and_the_same_each_time() {
        let prompts = random_prompts(3, 5, 10);
        assert_eq!(prompts.len(), 3);
        assert!(prompts.iter().all(|p| p.len() == 5));
        assert!(prompts.iter().flatten().all(|&id| id < 10));
        assert_eq!(prompts, random_prompts(3, 5, 10));
        assert_ne!(prompts[0], prompts[1]);
    }

    #[test]
    fn a_call_counts_with_each_of_its_steps() {
        let runs = Runs {
            prefills: vec![1.0],
            calls: vec![vec![(5, 1.0), (1, 9.0)], vec![(2, 3.0)]],
        };
        assert_eq!(runs.step(), Some(1.0));
        let others = Runs {
            prefills: vec![1.0],
            calls: vec![vec![(5, 2.0), (1, 3.0)], vec![(2, 6.0)]],
        };
        assert_eq!(runs.ratio_to(&others), Some(0.5));
    }
}
