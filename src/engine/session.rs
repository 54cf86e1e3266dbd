//! A session on the devices: rows, each with its own length, that prompts are admitted to, that
//! step together, and that are freed one by one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choice::{Chooser, ChoosingRow, Reports, choice_inputs};
use super::core::{DeviceCaches, Engine};
use super::error::{Error, Result};
use super::generation::{FinishReason, Row, TokenLogprob};
use super::memory::{self, Parameters};
use super::options::{SHORTEST_PART, SessionOptions, Size};
use super::program_key::CHUNK;
use crate::model::programs::{Program, Step, StepInputs};
use crate::model::{Choice, LayerCache};

/// A row of a session that a prompt was admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub(super) usize);

/// What a call of [`Session::step`] gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// New tokens of each row that generated, and why it has ended, if it has.
    pub rows: Vec<(RowId, Vec<u32>, Option<FinishReason>)>,
    /// What is reported of the new tokens of each of those rows; nothing where that was not asked
    /// for.
    pub logprobs: Vec<Vec<TokenLogprob>>,
    /// Steps run.
    pub steps: usize,
    /// The time that they took, without compiling.
    pub took: Duration,
}

/// A session. What a row generates does not depend on the others, nor on
/// when they came.
pub struct Session<'a> {
    pub(super) engine: &'a Engine,
    /// Rows of a device.
    pub(super) rows_on_device: usize,
    pub(super) max_length: usize,
    pub(super) chunk: usize,
    /// Length of the caches: what a row may use, and a chunk more.
    pub(super) cache: usize,
    pub(super) caches: DeviceCaches,
    pub(super) rows: Vec<State>,
    /// How tokens are chosen where an admission does not say.
    pub(super) chooser: Arc<Chooser>,
    /// The choices that steps are compiled for, the cheapest first.
    choices: Vec<Choice>,
    pub(super) own_sampling: bool,
    pub(super) reuse_prefixes: bool,
    /// Prompts admitted so far.
    pub(super) admitted: u64,
}

/// A row.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Without a prompt.
    Free {
        /// The tokens whose keys and values are still in the caches.
        kept: Vec<u32>,
    },
    /// With a prompt.
    Taken(Box<Taken>),
}

/// What a row with a prompt has.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Its place among the prompts admitted.
    pub number: u64,
    pub prompt: Vec<u32>,
    /// Tokens whose keys and values are in the caches.
    pub length: usize,
    pub generated: Row,
    pub chooser: Arc<Chooser>,
    /// How many of the most likely tokens are reported in each place of the prompt.
    pub scored: Option<usize>,
    /// The tokens that may come next, a bit each; all where there is nothing.
    allowed: Option<Vec<u32>>,
}

impl Taken {
    /// A row for a prompt, of which `length` tokens are in the caches.
    pub fn new(
        number: u64,
        prompt: Vec<u32>,
        length: usize,
        generated: Row,
        chooser: Arc<Chooser>,
        scored: Option<usize>,
    ) -> Self {
        Self {
            number,
            prompt,
            length,
            generated,
            chooser,
            scored,
            allowed: None,
        }
    }

    /// Whether tokens of the prompt are to be run before a step, which runs the last of them.
    pub fn is_arriving(&self) -> bool {
        self.length + 1 < self.prompt.len()
    }

    /// The first token that is not in the caches.
    fn next_token(&self) -> u32 {
        let reply = self.length.checked_sub(self.prompt.len());
        let next = match reply {
            None => self.prompt.get(self.length),
            Some(place) => self.generated.token_ids.get(place),
        };
        next.copied().unwrap_or(0)
    }

    /// The tokens that are in the caches.
    fn cached(self) -> Vec<u32> {
        let mut tokens = self.prompt;
        tokens.extend(self.generated.token_ids);
        tokens.truncate(self.length);
        tokens
    }

    fn needs(&self) -> Choice {
        Choice {
            allowed: self.allowed.is_some(),
            ..self.chooser.choice()
        }
    }

    fn choosing(&self) -> ChoosingRow<'_> {
        ChoosingRow {
            prompt: &self.prompt,
            state: &self.generated,
            width: self.prompt.len(),
            chooser: &self.chooser,
            allowed: self.allowed.as_deref(),
        }
    }
}

impl<'a> Session<'a> {
    /// A session with all rows free.
    ///
    /// # Errors
    /// Sizes of 0, a length beyond the model's positions, a device without memory for the caches.
    pub fn new(engine: &'a Engine, options: &SessionOptions) -> Result<Self> {
        let spec = engine.spec();
        for (argument, value) in [
            ("rows", options.rows),
            ("max_length", options.max_length),
            ("prefill_chunk", options.prefill_chunk),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(Error::Argument {
                    argument,
                    problem: format!("{value} is not between 1 and {}", i32::MAX),
                });
            }
        }
        let vocabulary = spec.gemma.spec().vocabulary.size();
        options.sampling.validate(vocabulary, options.max_length)?;
        let Size {
            rows_on_device,
            max_length,
            chunk,
            cache,
        } = options.size(spec);
        let free = State::Free { kept: Vec::new() };
        let rows = vec![free; rows_on_device * spec.mesh.data];
        let chooser = Chooser::new(spec, &options.sampling);
        let choices = match options.own_sampling {
            true => chooser.choices_for_any(vocabulary),
            false => vec![chooser.choice()],
        };
        Ok(Self {
            chooser: Arc::new(chooser),
            choices,
            own_sampling: options.own_sampling,
            reuse_prefixes: options.reuse_prefixes,
            admitted: 0,
            caches: engine.empty_caches(rows_on_device, cache)?,
            engine,
            rows_on_device,
            max_length,
            chunk,
            cache,
            rows,
        })
    }

    /// Rows, free or not.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Tokens of a row at most, prompt and continuation.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Rows that no prompt has.
    pub fn free_rows(&self) -> usize {
        let free = |row: &&State| matches!(row, State::Free { .. });
        self.rows.iter().filter(free).count()
    }

    /// Rows whose prompt has not run to its last token.
    pub fn arriving_rows(&self) -> usize {
        self.taken().filter(|(_, row)| row.is_arriving()).count()
    }

    /// The rows with a prompt.
    pub(super) fn taken(&self) -> impl Iterator<Item = (usize, &Taken)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(index, row)| match row {
            State::Free { .. } => None,
            State::Taken(taken) => Some((index, &**taken)),
        })
    }

    /// Tokens whose keys and values are in the caches, of rows with a prompt.
    pub fn cached_tokens(&self) -> usize {
        self.taken().map(|(_, row)| row.length).sum()
    }

    /// Compiles all programs that the session runs, so that none is compiled later.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self) -> Result<()> {
        let chunks = std::iter::successors(Some(SHORTEST_PART), |chunk| Some(chunk * 2));
        for chunk in chunks.take_while(|&chunk| chunk <= self.chunk) {
            self.engine.ready(self.admit_program(chunk))?;
            if self.own_sampling {
                self.engine.ready(self.admit_scored_program(chunk))?;
            }
        }
        for &choice in &self.choices {
            self.engine.ready(self.step_program(choice))?;
        }
        Ok(())
    }

    /// What a row's choices may ask for at most.
    pub(super) fn most_choice(&self) -> Choice {
        self.choices.last().copied().unwrap_or_default()
    }

    /// Says which tokens may come next in a row, a bit each, the lowest first; all where there is
    /// nothing. It holds until it is said again, so that a call of [`step`](Self::step) runs one
    /// step while any row has such a set.
    ///
    /// # Errors
    /// A session without [`own_sampling`](SessionOptions::own_sampling).
    pub fn allow(&mut self, row: RowId, allowed: Option<Vec<u32>>) -> Result<()> {
        if !self.own_sampling {
            return Err(Error::Argument {
                argument: "allowed",
                problem: "the session was made without own_sampling".to_owned(),
            });
        }
        if let Some(State::Taken(taken)) = self.rows.get_mut(row.0) {
            taken.allowed = allowed;
        }
        Ok(())
    }

    /// Runs up to `steps` steps of all rows whose prompts have run and which have not ended, at most
    /// 32. With `until_any` it
    /// returns as soon as a row has ended. A row that has ended keeps its place until it is
    /// [freed](Self::free).
    ///
    /// # Errors
    /// A device that fails.
    pub fn step(&mut self, steps: usize, until_any: bool) -> Result<Stepped> {
        let engine = self.engine;
        let count = self.rows.len();
        let (mut position, mut token) = (vec![0_i32; count], vec![0_i32; count]);
        let (mut left, mut done) = (vec![0_i32; count], vec![1_u8; count]);
        let mut needed = Vec::new();
        let mut most = steps.min(CHUNK);
        for (row, state) in self.rows.iter().enumerate() {
            match state {
                State::Free { kept } => position[row] = kept.len() as i32,
                State::Taken(taken) => {
                    position[row] = taken.length as i32;
                    token[row] = taken.next_token() as i32;
                    if taken.is_arriving() || taken.generated.finished.is_some() {
                        continue;
                    }
                    left[row] = taken.generated.left() as i32;
                    done[row] = 0;
                    let needs = taken.needs();
                    if needs.allowed {
                        most = most.min(1);
                    }
                    needed.push(needs);
                }
            }
        }
        let limit = most.min(left.iter().copied().max().unwrap_or(0) as usize);
        if limit == 0 || done.iter().all(|&done| done != 0) {
            return Ok(Stepped {
                rows: Vec::new(),
                logprobs: Vec::new(),
                steps: 0,
                took: Duration::ZERO,
            });
        }
        let enough = |choice: &&Choice| needed.iter().all(|&needs| choice.covers(needs));
        let choice = self.choices.iter().find(enough).copied();
        let program = self.step_program(choice.unwrap_or_else(|| self.most_choice()));
        let ready = engine.ready(program)?;
        let began = Instant::now();
        let devices = engine.devices();
        let dims = [self.rows_on_device as i64];
        let inputs = StepInputs {
            limit: devices.upload_scalar(limit as i32)?,
            until_any: devices.upload(&[u8::from(until_any)], hlo::ElementType::Pred, &[])?,
            position: devices.upload_rows_s32(&position, &dims)?,
            token: devices.upload_rows_s32(&token, &dims)?,
            left: devices.upload_rows_s32(&left, &dims)?,
            done: devices.upload_rows(&done, hlo::ElementType::Pred, &dims)?,
        };
        let mut choosing = vec![None; count];
        for (row, taken) in self.taken() {
            choosing[row] = Some(taken.choosing());
        }
        let choice = choice_inputs(devices, engine.spec(), program.choosing(), &choosing)?;
        let outcome = engine.call(&ready, inputs.as_ref(), choice.as_ref(), &self.caches)?;
        self.caches = outcome.caches;
        let ran = devices.read_s32(&outcome.results.steps)?;
        let ran = usize::try_from(ran.first().copied().unwrap_or(0)).unwrap_or(0);
        let tokens = devices.read_s32(&outcome.results.tokens)?;
        if ran == 0 || ran > limit || tokens.len() != count * CHUNK {
            return Err(Error::UnexpectedResult {
                program: "step",
                expected: format!("1 to {limit} steps of {count} rows"),
                found: format!("{ran} steps and {} tokens", tokens.len()),
            });
        }
        let reports = Reports::read(devices, &outcome.choice, CHUNK)?;
        let took = began.elapsed();
        engine.record(|times| times.decode += took);

        let eos = engine.spec().config.eos_token_ids();
        let mut rows = Vec::new();
        let mut logprobs = Vec::new();
        for (row, state) in self.rows.iter_mut().enumerate() {
            let State::Taken(taken) = state else {
                continue;
            };
            let Taken {
                length,
                generated,
                chooser,
                ..
            } = &mut **taken;
            if done[row] != 0 {
                continue;
            }
            let before = generated.logprobs.len();
            let top = chooser.choice().logprobs;
            let new = generated.accept(&tokens[row * CHUNK..][..ran], eos, |step, token| {
                let (reports, top) = (reports.as_ref()?, top?);
                Some(reports.of(row, step, token, top))
            });
            let new = new.to_vec();
            logprobs.push(generated.logprobs[before..].to_vec());
            *length += new.len();
            rows.push((RowId(row), new, generated.finished));
        }
        Ok(Stepped {
            rows,
            logprobs,
            steps: ran,
            took,
        })
    }

    /// Frees a row, whether it has ended or not.
    pub fn free(&mut self, row: RowId) {
        let Some(state) = self.rows.get_mut(row.0) else {
            return;
        };
        let free = State::Free { kept: Vec::new() };
        let State::Taken(taken) = std::mem::replace(state, free) else {
            return;
        };
        *state = State::Free {
            kept: taken.cached(),
        };
    }

    /// Ends a row where it is, as one that has reached its last token: it makes no further steps,
    /// and keeps its place until it is [freed](Self::free).
    pub fn stop(&mut self, row: RowId) {
        if let Some(State::Taken(taken)) = self.rows.get_mut(row.0) {
            taken.generated.finished = Some(FinishReason::Stop);
        }
    }

    fn step_program(&self, choice: Choice) -> Step {
        Step {
            rows: self.rows_on_device,
            cache: self.cache,
            chunk: CHUNK,
            choice,
            // Rows with options of their own have the tokens of Flax's compiled loop, whatever is
            // reported of the others.
            rounds: !self.own_sampling && choice.logprobs.is_some(),
        }
    }
}

impl Engine {
    /// Caches of zeros.
    pub(super) fn empty_caches(&self, rows: usize, length: usize) -> Result<DeviceCaches> {
        let (spec, devices) = (self.spec(), self.devices());
        memory::check_caches(rows, length, Parameters::Loaded, spec, devices)?;
        let upload = |shape: hlo::ArrayShape| {
            let zeros = vec![0; shape.byte_size()];
            self.devices()
                .upload(&zeros, shape.element_type, &shape.dims)
        };
        let shapes = self.spec().cache_shapes(rows, length).into_iter();
        shapes
            .map(|cache| {
                let LayerCache { keys, values } = cache.map(|_, shape| upload(shape));
                Ok(LayerCache {
                    keys: keys?,
                    values: values?,
                })
            })
            .collect()
    }
}
