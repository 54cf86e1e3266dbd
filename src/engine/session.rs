//! A session on the devices: rows, each with its own length, that prompts are admitted to, that
//! step together, and that are freed one by one.

use std::time::{Duration, Instant};

use super::buckets::cache_bucket;
use super::choice::{Chooser, ChoosingRow, Reports};
use super::core::{DeviceCaches, Engine};
use super::error::{Error, Result};
use super::generation::{FinishReason, Row, TokenLogprob};
use super::memory::{self, Parameters};
use super::program_key::CHUNK;
use crate::model::programs::{Program, Step, StepInputs};
use crate::model::{LayerCache, ModelSpec};
use crate::sampling::SamplingOptions;

/// The shortest part of a prompt that a program is compiled for.
pub(super) const SHORTEST_CHUNK: usize = 16;

/// The size of a session, and how it chooses tokens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Rows over the whole mesh, at least 1; rounded up to a multiple of the mesh's data axis. By
    /// default 8.
    pub rows: usize,
    /// Tokens of a row at most, prompt and continuation; by default 1024, or what the model has
    /// positions for.
    pub max_length: usize,
    /// Tokens of a prompt that are run at once, at most; by default 64.
    pub prefill_chunk: usize,
    /// How tokens are chosen; greedily by default. Its stop texts and number of replies are for
    /// whoever admits prompts.
    pub sampling: SamplingOptions,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            rows: 8,
            max_length: 1024,
            prefill_chunk: 64,
            sampling: SamplingOptions::default(),
        }
    }
}

/// What a session has on each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub rows_on_device: usize,
    pub max_length: usize,
    pub chunk: usize,
    pub cache: usize,
}

impl SessionOptions {
    pub(super) fn size(&self, spec: &ModelSpec) -> Size {
        let max_length = self.max_length.min(spec.config.max_position_embeddings());
        let chunk = self.prefill_chunk.next_power_of_two().clamp(
            SHORTEST_CHUNK,
            max_length.next_power_of_two().max(SHORTEST_CHUNK),
        );
        Size {
            rows_on_device: spec.decode_rows(self.rows.div_ceil(spec.mesh.data)),
            max_length,
            chunk,
            cache: cache_bucket(max_length + chunk),
        }
    }
}

/// A row of a session that a prompt was admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub(super) usize);

/// What a call of [`Session::step`] gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// New tokens of each row that generated, and why it has ended, if it has.
    pub rows: Vec<(RowId, Vec<u32>, Option<FinishReason>)>,
    /// What is reported of the new tokens of each of those rows, where that was asked for.
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
    pub(super) chooser: Chooser,
}

/// A row.
#[derive(Clone, Debug)]
pub(super) enum State {
    Free,
    Taken {
        /// Tokens whose keys and values are in the caches.
        length: usize,
        /// The last token, which is not yet.
        token: i32,
        prompt: Vec<u32>,
        generated: Row,
    },
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
        let rows = vec![State::Free; rows_on_device * spec.mesh.data];
        Ok(Self {
            chooser: Chooser::new(spec, &options.sampling),
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
        let free = |row: &&State| matches!(row, State::Free);
        self.rows.iter().filter(free).count()
    }

    /// Compiles all programs that the session runs, so that none is compiled later.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self) -> Result<()> {
        let chunks = std::iter::successors(Some(SHORTEST_CHUNK), |chunk| Some(chunk * 2));
        for chunk in chunks.take_while(|&chunk| chunk <= self.chunk) {
            self.engine.ready(self.admit_program(chunk))?;
        }
        self.engine.ready(self.step_program())?;
        Ok(())
    }

    /// A row as its choices need it.
    pub(super) fn choosing_row(&self, row: usize) -> Option<ChoosingRow<'_>> {
        match self.rows.get(row)? {
            State::Free => None,
            State::Taken {
                prompt, generated, ..
            } => Some(ChoosingRow {
                prompt,
                state: generated,
                width: prompt.len(),
            }),
        }
    }

    /// Runs up to `steps` steps of all rows that have not ended, at most 32. With `until_any` it
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
        for (row, state) in self.rows.iter().enumerate() {
            if let State::Taken {
                length,
                token: last,
                generated,
                ..
            } = state
            {
                position[row] = *length as i32;
                token[row] = *last;
                left[row] = generated.left() as i32;
                done[row] = u8::from(generated.finished.is_some());
            }
        }
        let limit = steps
            .min(CHUNK)
            .min(left.iter().copied().max().unwrap_or(0) as usize);
        if limit == 0 || done.iter().all(|&done| done != 0) {
            return Ok(Stepped {
                rows: Vec::new(),
                logprobs: Vec::new(),
                steps: 0,
                took: Duration::ZERO,
            });
        }
        let program = self.step_program();
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
        let choosing: Vec<_> = (0..count).map(|row| self.choosing_row(row)).collect();
        let choice = self
            .chooser
            .inputs(devices, program.choosing(), &choosing)?;
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
            let State::Taken {
                length,
                token,
                generated,
                ..
            } = state
            else {
                continue;
            };
            if generated.finished.is_some() {
                continue;
            }
            let before = generated.logprobs.len();
            let new = generated.accept(&tokens[row * CHUNK..][..ran], eos, |step, token| {
                reports.as_ref().map(|reports| reports.of(row, step, token))
            });
            let new = new.to_vec();
            if reports.is_some() {
                logprobs.push(generated.logprobs[before..].to_vec());
            }
            *length += new.len();
            if let Some(&last) = new.last() {
                *token = last as i32;
            }
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
        if let Some(state) = self.rows.get_mut(row.0) {
            *state = State::Free;
        }
    }

    fn step_program(&self) -> Step {
        Step {
            rows: self.rows_on_device,
            cache: self.cache,
            chunk: CHUNK,
            choice: self.chooser.choice(),
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
