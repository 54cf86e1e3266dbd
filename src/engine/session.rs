//! A session on the devices: rows, each with its own length, that prompts are admitted to, that
//! step together, and that are freed one by one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::buckets::cache_bucket;
use super::choice::{Chooser, ChoosingRow, Reports};
use super::core::{DeviceCaches, Engine};
use super::error::{Error, Result};
use super::generation::{FinishReason, Row, TokenLogprob};
use super::program_key::CHUNK;
use crate::model::LayerCache;
use crate::model::programs::{Admit, AdmitInputs, Program, Step, StepInputs};
use crate::sampling::{Key, SamplingOptions};

/// The shortest part of a prompt that a program is compiled for.
const SHORTEST_CHUNK: usize = 16;

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

/// A row of a session that a prompt was admitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(usize);

/// A prompt that is to have a row.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// Its token ids.
    pub prompt: &'a [u32],
    /// New tokens after it at most.
    pub new_tokens: usize,
    /// The random key of its reply: its sampled tokens are those of Flax's `generate` on this
    /// prompt alone with this key.
    pub key: Key,
}

/// What admitting a prompt gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Its row.
    pub row: RowId,
    /// Its first new token.
    pub token: u32,
    /// What is reported of it, where that was asked for.
    pub logprob: Option<TokenLogprob>,
    /// Why it has ended already, if it has.
    pub finished: Option<FinishReason>,
    /// Its part of the time that its prompt took, without compiling.
    pub took: Duration,
}

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
    engine: &'a Engine,
    /// Rows of a device.
    rows_on_device: usize,
    max_length: usize,
    chunk: usize,
    /// Length of the caches: what a row may use, and a chunk more.
    cache: usize,
    caches: DeviceCaches,
    rows: Vec<State>,
    chooser: Chooser,
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
        prompt: Vec<u32>,
        generated: Row,
    },
}

/// A prompt on its way into its row.
#[derive(Clone, Copy)]
struct Arriving<'a> {
    /// Its place among those that are admitted.
    index: usize,
    row: usize,
    prompt: &'a [u32],
    /// Tokens that have run.
    start: usize,
}

impl<'a> Arriving<'a> {
    /// The next part, of at most `chunk` tokens.
    fn part(&self, chunk: usize) -> &'a [u32] {
        &self.prompt[self.start..self.prompt.len().min(self.start + chunk)]
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

    /// Admits a prompt to a free row, to generate up to `new_tokens` after it: runs it, and gives
    /// its first token. None where no row is free. Its random key is that of the session's seed.
    ///
    /// # Errors
    /// A prompt that is empty or does not fit with a new token, an id outside of the vocabulary, a
    /// device that fails.
    pub fn admit(&mut self, prompt: &[u32], new_tokens: usize) -> Result<Option<Admitted>> {
        let admission = Admission {
            prompt,
            new_tokens,
            key: self.chooser.batch_key(),
        };
        Ok(self.admit_all(&[admission])?.pop())
    }

    /// Admits as many of these prompts as there are free rows for, in their order, and gives what
    /// each became. Every group of the data axis runs its prompts at the same time as the others.
    ///
    /// # Errors
    /// As [`admit`](Self::admit); the error's index is the place among these prompts. Nothing is
    /// admitted then.
    pub fn admit_all(&mut self, admissions: &[Admission<'_>]) -> Result<Vec<Admitted>> {
        for (index, admission) in admissions.iter().enumerate() {
            self.engine
                .check_prompt(index, admission.prompt, self.max_length)?;
        }
        let mut waiting: Vec<VecDeque<Arriving<'_>>> = Vec::new();
        waiting.resize_with(self.engine.spec().mesh.data, VecDeque::new);
        let mut rows = Vec::new();
        for (index, admission) in admissions.iter().enumerate() {
            let Some(row) = self.next_free(&waiting) else {
                break;
            };
            let prompt = admission.prompt;
            let limit = admission
                .new_tokens
                .clamp(1, self.max_length - prompt.len());
            waiting[row / self.rows_on_device].push_back(Arriving {
                index,
                row,
                prompt,
                start: 0,
            });
            rows.push(row);
            self.rows[row] = State::Taken {
                length: 0,
                token: 0,
                prompt: prompt.to_vec(),
                generated: Row::new(limit, admission.key, 0),
            };
        }
        let outcome = self.run_arriving(&mut waiting, rows.len());
        if outcome.is_err() {
            for row in rows {
                self.rows[row] = State::Free;
            }
        }
        outcome
    }

    /// Gives a row that a prompt has another one, in place of the first: what both have in common
    /// at their beginning, reply included, is not run again. How many tokens that are, and what
    /// the new one became; nothing where the row is free.
    ///
    /// # Errors
    /// As [`admit`](Self::admit); the row is then free.
    pub fn readmit(
        &mut self,
        row: RowId,
        admission: Admission<'_>,
    ) -> Result<(usize, Option<Admitted>)> {
        let Admission {
            prompt,
            new_tokens,
            key,
        } = admission;
        let RowId(row) = row;
        let Some(State::Taken {
            length,
            prompt: earlier,
            generated,
            ..
        }) = self.rows.get(row)
        else {
            return Ok((0, None));
        };
        self.engine.check_prompt(0, prompt, self.max_length)?;
        let cached = earlier.iter().chain(&generated.token_ids).take(*length);
        let common = cached.zip(prompt).take_while(|(old, new)| old == new);
        // The last token runs in any case: the next one comes from it.
        let common = common.count().min(prompt.len() - 1);
        let start = match self.keeps(common, *length) {
            true => common,
            false => 0,
        };
        let limit = new_tokens.clamp(1, self.max_length - prompt.len());
        self.rows[row] = State::Taken {
            length: 0,
            token: 0,
            prompt: prompt.to_vec(),
            generated: Row::new(limit, key, 0),
        };
        let mut waiting: Vec<VecDeque<Arriving<'_>>> = Vec::new();
        waiting.resize_with(self.engine.spec().mesh.data, VecDeque::new);
        waiting[row / self.rows_on_device].push_back(Arriving {
            index: 0,
            row,
            prompt,
            start,
        });
        let outcome = self.run_arriving(&mut waiting, 1);
        if outcome.is_err() {
            self.rows[row] = State::Free;
        }
        Ok((start, outcome?.pop()))
    }

    /// Whether a row that has held `length` tokens still has what its first `start` left in the
    /// caches: in layers with a window the latest tokens take the place of those before them.
    fn keeps(&self, start: usize, length: usize) -> bool {
        let layers = self.engine.spec().gemma.spec().layers.iter();
        let mut windows = layers.filter_map(|layer| layer.attention.window);
        start == length || windows.all(|window| length <= window)
    }

    /// A free row in the group with the fewest prompts that wait.
    fn next_free(&self, waiting: &[VecDeque<Arriving<'_>>]) -> Option<usize> {
        let free = |(row, state): (usize, &State)| matches!(state, State::Free).then_some(row);
        let rows = self.rows.iter().enumerate().filter_map(free);
        rows.min_by_key(|row| (waiting[row / self.rows_on_device].len(), *row))
    }

    /// Runs the prompts of all groups into their rows.
    fn run_arriving(
        &mut self,
        waiting: &mut [VecDeque<Arriving<'_>>],
        count: usize,
    ) -> Result<Vec<Admitted>> {
        let mut arrived: Vec<Option<(usize, i32, Option<TokenLogprob>)>> = vec![None; count];
        let mut took = Duration::ZERO;
        while waiting.iter().any(|group| !group.is_empty()) {
            let parts: Vec<Option<Arriving<'_>>> =
                waiting.iter().map(|group| group.front().copied()).collect();
            let (tokens, reports, time) = self.run_parts(&parts)?;
            took += time;
            for (group, arriving) in waiting.iter_mut().enumerate() {
                let Some(part) = arriving.front_mut() else {
                    continue;
                };
                part.start += part.part(self.chunk).len();
                if part.start == part.prompt.len() {
                    let token = tokens.get(group).copied().unwrap_or(0);
                    let report = reports.as_ref().map(|r| r.of(group, 0, token as u32));
                    arrived[part.index] = Some((part.row, token, report));
                    arriving.pop_front();
                }
            }
        }
        self.engine.record(|times| times.prefill += took);
        let took = took / (count.max(1) as u32);
        let eos = self.engine.spec().config.eos_token_ids().to_vec();
        let mut admitted = Vec::with_capacity(count);
        for (row, token, report) in arrived.into_iter().flatten() {
            let State::Taken {
                length,
                token: last,
                prompt,
                generated,
                ..
            } = &mut self.rows[row]
            else {
                continue;
            };
            (*length, *last) = (prompt.len(), token);
            generated.accept(&[token], &eos, |_, _| report.clone());
            admitted.push(Admitted {
                row: RowId(row),
                token: token as u32,
                finished: generated.finished,
                logprob: report,
                took,
            });
        }
        Ok(admitted)
    }

    /// Runs a part of a prompt in each group that has one: the tokens after them, what is reported
    /// of those, and the time it took.
    fn run_parts(
        &mut self,
        parts: &[Option<Arriving<'_>>],
    ) -> Result<(Vec<i32>, Option<Reports>, Duration)> {
        let engine = self.engine;
        let lengths = parts
            .iter()
            .flatten()
            .map(|part| part.part(self.chunk).len());
        let chunk = lengths.max().unwrap_or(1).next_power_of_two();
        let chunk = chunk.max(SHORTEST_CHUNK);
        let program = self.admit_program(chunk);
        let ready = engine.ready(program)?;
        let began = Instant::now();
        let devices = engine.devices();
        let groups = parts.len();
        let pad = engine.spec().config.padding_id() as i32;
        let mut ids = vec![pad; groups * chunk];
        // A group without a prompt runs a part without tokens, and writes it where nobody sees it:
        // after what its rows may use.
        let mut starts = vec![(self.cache - chunk) as i32; groups];
        let mut rows = vec![0; groups];
        let mut last = vec![-1; groups];
        let mut choosing = vec![None; groups];
        for (group, arriving) in parts.iter().enumerate() {
            let Some(arriving) = arriving else { continue };
            let part = arriving.part(self.chunk);
            for (slot, &id) in ids[group * chunk..].iter_mut().zip(part) {
                *slot = id as i32;
            }
            starts[group] = arriving.start as i32;
            rows[group] = (arriving.row % self.rows_on_device) as i32;
            last[group] = (part.len() - 1) as i32;
            choosing[group] = self.choosing_row(arriving.row);
        }
        let inputs = AdmitInputs {
            input_ids: devices.upload_rows_s32(&ids, &[1, chunk as i64])?,
            row: devices.upload_rows_s32(&rows, &[1])?,
            start: devices.upload_rows_s32(&starts, &[1])?,
            last: devices.upload_rows_s32(&last, &[1])?,
        };
        let choice = self
            .chooser
            .inputs(devices, program.choosing(), &choosing)?;
        let outcome = engine.call(&ready, inputs.as_ref(), choice.as_ref(), &self.caches)?;
        self.caches = outcome.caches;
        let tokens = devices.read_s32(&outcome.results.token)?;
        let reports = Reports::read(devices, &outcome.choice, 1)?;
        Ok((tokens, reports, began.elapsed()))
    }

    /// A row as its choices need it.
    fn choosing_row(&self, row: usize) -> Option<ChoosingRow<'_>> {
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

    fn admit_program(&self, chunk: usize) -> Admit {
        Admit {
            chunk,
            rows: self.rows_on_device,
            cache: self.cache,
            choice: self.chooser.choice(),
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
