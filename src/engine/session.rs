//! A session on the devices: rows, each with its own length, that prompts are admitted to, that
//! step together, and that are freed one by one.

use std::time::{Duration, Instant};

use super::buckets::cache_bucket;
use super::core::{DeviceCaches, Engine};
use super::error::{Error, Result};
use super::generation::{FinishReason, Row};
use super::program_key::CHUNK;
use crate::model::LayerCache;
use crate::model::programs::{Admit, AdmitInputs, Step, StepInputs};

/// The shortest part of a prompt that a program is compiled for.
const SHORTEST_CHUNK: usize = 16;

/// The size of a session.
#[derive(Clone, Copy, Debug)]
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
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            rows: 8,
            max_length: 1024,
            prefill_chunk: 64,
        }
    }
}

/// A row of a session that a prompt was admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(usize);

/// What admitting a prompt gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its row.
    pub row: RowId,
    /// Its first new token.
    pub token: u32,
    /// Why it has ended already, if it has.
    pub finished: Option<FinishReason>,
    /// The time that its prompt took, without compiling.
    pub took: Duration,
}

/// What a call of [`Session::step`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepped {
    /// New tokens of each row that generated, and why it has ended, if it has.
    pub rows: Vec<(RowId, Vec<u32>, Option<FinishReason>)>,
    /// Steps run.
    pub steps: usize,
    /// The time that they took, without compiling.
    pub took: Duration,
}

/// A session. Rows generate greedily; what a row generates does not depend on the others, nor on
/// when they came.
pub struct Session<'a> {
    engine: &'a Engine,
    /// Rows of a device.
    rows_on_device: usize,
    max_length: usize,
    chunk: usize,
    /// Length of the caches: what a row may use, and a chunk more.
    cache: usize,
    caches: DeviceCaches,
    rows: Vec<State>,
}

/// A row.
#[derive(Clone, Debug)]
enum State {
    Free,
    Taken {
        /// Tokens whose keys and values are in the caches.
        length: usize,
        /// The last token, which is not yet.
        token: i32,
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
        let max_length = options
            .max_length
            .min(spec.config.max_position_embeddings());
        let rows_on_device = spec.decode_rows(options.rows.div_ceil(spec.mesh.data));
        let chunk = options.prefill_chunk.next_power_of_two().clamp(
            SHORTEST_CHUNK,
            max_length.next_power_of_two().max(SHORTEST_CHUNK),
        );
        let cache = cache_bucket(max_length + chunk);
        let rows = vec![State::Free; rows_on_device * spec.mesh.data];
        Ok(Self {
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

    /// Admits a prompt to a free row, to generate up to `new_tokens` after it: runs it, and gives
    /// its first token. None where no row is free.
    ///
    /// # Errors
    /// A prompt that is empty or does not fit with a new token, an id outside of the vocabulary, a
    /// device that fails.
    pub fn admit(&mut self, prompt: &[u32], new_tokens: usize) -> Result<Option<Admitted>> {
        self.engine.check_prompt(0, prompt, self.max_length)?;
        let free = |row: &State| matches!(row, State::Free);
        let Some(row) = self.rows.iter().position(free) else {
            return Ok(None);
        };
        let mut took = Duration::ZERO;
        let mut token = 0;
        let mut start = 0;
        while start < prompt.len() {
            let part = &prompt[start..prompt.len().min(start + self.chunk)];
            let (next, time) = self.run_part(row, start, part)?;
            (token, took, start) = (next, took + time, start + part.len());
        }
        self.engine.record(|times| times.prefill += took);

        let limit = new_tokens.clamp(1, self.max_length - prompt.len());
        let mut generated = Row::new(limit);
        generated.accept(&[token], self.engine.spec().config.eos_token_ids());
        let finished = generated.finished;
        self.rows[row] = State::Taken {
            length: prompt.len(),
            token,
            generated,
        };
        Ok(Some(Admitted {
            row: RowId(row),
            token: token as u32,
            finished,
            took,
        }))
    }

    /// Runs a part of a prompt into its row: the greedy token after it.
    fn run_part(&mut self, row: usize, start: usize, part: &[u32]) -> Result<(i32, Duration)> {
        let engine = self.engine;
        let chunk = part.len().next_power_of_two().max(SHORTEST_CHUNK);
        let ready = engine.ready(self.admit_program(chunk))?;
        let began = Instant::now();
        let devices = engine.devices();
        let groups = engine.spec().mesh.data;
        let group = row / self.rows_on_device;
        let pad = engine.spec().config.padding_id() as i32;
        let mut ids = vec![pad; groups * chunk];
        for (slot, &id) in ids[group * chunk..].iter_mut().zip(part) {
            *slot = id as i32;
        }
        // The other groups run a part without tokens, and write it where nobody sees it: after what
        // their rows may use.
        let mut starts = vec![(self.cache - chunk) as i32; groups];
        let mut rows = vec![0; groups];
        let mut last = vec![-1; groups];
        starts[group] = start as i32;
        rows[group] = (row % self.rows_on_device) as i32;
        last[group] = (part.len() - 1) as i32;
        let inputs = AdmitInputs {
            input_ids: devices.upload_rows_s32(&ids, &[1, chunk as i64])?,
            row: devices.upload_rows_s32(&rows, &[1])?,
            start: devices.upload_rows_s32(&starts, &[1])?,
            last: devices.upload_rows_s32(&last, &[1])?,
        };
        let outcome = engine.call(&ready, inputs.as_ref(), &self.caches)?;
        self.caches = outcome.caches;
        let tokens = devices.read_s32(&outcome.results.token)?;
        let token = tokens.get(group).copied().unwrap_or(pad);
        Ok((token, began.elapsed()))
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
                steps: 0,
                took: Duration::ZERO,
            });
        }
        let ready = engine.ready(self.step_program())?;
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
        let outcome = engine.call(&ready, inputs.as_ref(), &self.caches)?;
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
        let took = began.elapsed();
        engine.record(|times| times.decode += took);

        let eos = engine.spec().config.eos_token_ids();
        let mut rows = Vec::new();
        for (row, state) in self.rows.iter_mut().enumerate() {
            let State::Taken {
                length,
                token,
                generated,
            } = state
            else {
                continue;
            };
            if generated.finished.is_some() {
                continue;
            }
            let new = generated
                .accept(&tokens[row * CHUNK..][..ran], eos)
                .to_vec();
            *length += new.len();
            if let Some(&last) = new.last() {
                *token = last as i32;
            }
            rows.push((RowId(row), new, generated.finished));
        }
        Ok(Stepped {
            rows,
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

    fn admit_program(&self, chunk: usize) -> Admit {
        Admit {
            chunk,
            rows: self.rows_on_device,
            cache: self.cache,
        }
    }

    fn step_program(&self) -> Step {
        Step {
            rows: self.rows_on_device,
            cache: self.cache,
            chunk: CHUNK,
        }
    }
}

impl Engine {
    /// Caches of zeros.
    fn empty_caches(&self, rows: usize, length: usize) -> Result<DeviceCaches> {
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
