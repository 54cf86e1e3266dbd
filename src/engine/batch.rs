//! One batch on its way: left-padded prompts, a prefill, then decode loops on the device.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::choice::{Chooser, ChoosingRow, Reports, choice_inputs};
use super::core::{DeviceCaches, Engine};
use super::devices::PerDevice;
use super::error::{Error, Result};
use super::generation::{Event, GenerateOptions, GenerateSummary, Generation, Row, Stop};
use super::program_key::{BatchPrograms, CHUNK};
use super::prompts::PaddedPrompts;
use crate::model::ModelSpec;
use crate::model::programs::{Decode, DecodeInputs, Program};
use crate::sharding::Mesh;

/// Steps a call when somebody watches the tokens come.
const STREAMED_CHUNK: usize = 1;

/// Who is told what happens, and can stop it.
pub(super) type Tell<'a, B> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<B>;

/// Returns what breaks, as a result.
macro_rules! or_break {
    ($flow:expr) => {
        if let ControlFlow::Break(why) = $flow {
            return Ok(ControlFlow::Break(why));
        }
    };
}
pub(super) use or_break;

/// A batch on its way.
pub(super) struct BatchRun<'a> {
    engine: &'a Engine,
    prompts: Vec<&'a [u32]>,
    rows_layout: RowsLayout,
    /// Number of the first row among those of all batches.
    first: usize,
    options: &'a GenerateOptions,
    chooser: &'a Chooser,
    rows: Vec<Row>,
}

impl<'a> BatchRun<'a> {
    pub fn new(
        engine: &'a Engine,
        prompts: Vec<&'a [u32]>,
        size: usize,
        first: usize,
        options: &'a GenerateOptions,
        chooser: &'a Chooser,
        is_only: bool,
    ) -> Self {
        let spec = engine.spec();
        let rows_layout = RowsLayout::new(spec, size);
        let positions = spec.config.max_position_embeddings();
        let vocabulary = spec.gemma.spec().vocabulary.size() as u64;
        let replies = options.sampling.num_return_sequences;
        let width = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(1);
        let row = |(row, prompt): (usize, &&[u32])| {
            let limit = options.limit(prompt.len(), width, positions);
            // A batch that is all there is has the random numbers of one call of Flax, one row
            // after another. In any other a row has those of its prompt by itself.
            let (key, counter) = match is_only {
                true => (chooser.batch_key(), row as u64 * vocabulary),
                false => {
                    let number = first + row;
                    (chooser.own_key(number / replies, number % replies), 0)
                }
            };
            Row::new(limit, key, counter)
        };
        let rows = prompts.iter().enumerate().map(row).collect();
        Self {
            engine,
            prompts,
            rows_layout,
            first,
            options,
            chooser,
            rows,
        }
    }

    /// Prefill, then decode until every row is finished. Rows are reported in order, each once all
    /// before it are. Breaks with what `tell` breaks with.
    pub fn run<B>(
        &mut self,
        tell: Tell<'_, B>,
        summary: &mut GenerateSummary,
    ) -> Result<ControlFlow<B>> {
        let longest = self.longest();
        let new_tokens = self.rows.iter().map(|row| row.limit).max().unwrap_or(1);
        let layout = self.rows_layout;
        let rows = layout.prefill_rows();
        let size = layout.size;
        let programs = batch_programs(self.engine.spec(), size, longest, new_tokens)
            .choosing(self.chooser.choice());
        let prompts = PaddedPrompts::new(self.prompts.clone(), programs.prompt(), self.pad());
        let mut reported = 0;

        let choice = || {
            let choosing = self.choosing_rows(rows, |row| row);
            let (devices, spec) = (self.engine.devices(), self.engine.spec());
            choice_inputs(devices, spec, programs.prefill.choosing(), &choosing)
        };
        let prefilled = prompts.prefill(self.engine, &programs, rows, choice)?;
        let (first_tokens, mut caches) = (prefilled.tokens, prefilled.caches);
        or_break!(tell(Event::Prefilled(prefilled.took)));
        let mut token = vec![self.pad(); layout.decode_rows()];
        let mut position = vec![0; layout.decode_rows()];
        for row in 0..self.prompts.len() {
            token[layout.decode_row(row)] = first_tokens[row];
            position[layout.decode_row(row)] = self.prompts[row].len() as i32;
            let report = (prefilled.reports.as_ref(), row);
            or_break!(self.accept(row, &first_tokens[row..=row], report, tell));
        }
        or_break!(self.report(&mut reported, tell, summary));

        let decode_row = |row| layout.decode_row(row);
        let rows = layout.decode_rows();
        let mask = prompts.key_mask(rows, programs.decode.cache, decode_row);
        let dims = [layout.decode as i64, programs.decode.cache as i64];
        let key_mask = self.engine.devices().upload_rows_s32(&mask, &dims)?;
        let mut slot = programs.prompt();
        while reported < self.rows.len() {
            let left = self.rows.iter().map(Row::left).max().unwrap_or(0);
            let step = if self.options.stream {
                STREAMED_CHUNK
            } else {
                CHUNK
            };
            let call = DecodeCall {
                program: programs.decode,
                key_mask: &key_mask,
                limit: left.min(step),
                slot,
                position: &position,
                token: &token,
            };
            let chunk = self.decode(call, &caches)?;
            let (steps, took) = (chunk.steps, chunk.took);
            summary.steps += steps;
            or_break!(tell(Event::Decoded { steps, took }));
            caches = chunk.caches;
            slot += steps;
            position.iter_mut().for_each(|p| *p += steps as i32);
            token = chunk.last;
            for row in 0..self.rows.len() {
                let decode_row = layout.decode_row(row);
                let tokens = &chunk.tokens[decode_row * CHUNK..][..steps];
                let report = (chunk.reports.as_ref(), decode_row);
                or_break!(self.accept(row, tokens, report, tell));
            }
            or_break!(self.report(&mut reported, tell, summary));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decode(&self, input: DecodeCall<'_>, caches: &DeviceCaches) -> Result<DecodeChunk> {
        let engine = self.engine;
        let devices = engine.devices();
        let program = engine.ready(input.program)?;
        let start = Instant::now();
        let mut done = vec![1_u8; self.rows_layout.decode_rows()];
        for (row, state) in self.rows.iter().enumerate() {
            done[self.rows_layout.decode_row(row)] = u8::from(state.finished.is_some());
        }
        let dims = [input.program.rows as i64];
        let limit = devices.upload_scalar(input.limit as i32)?;
        let slot = devices.upload_scalar(input.slot as i32)?;
        let position = devices.upload_rows_s32(input.position, &dims)?;
        let token = devices.upload_rows_s32(input.token, &dims)?;
        let done = devices.upload_rows(&done, hlo::ElementType::Pred, &dims)?;
        let inputs = DecodeInputs {
            key_mask: input.key_mask,
            limit: &limit,
            slot: &slot,
            position: &position,
            token: &token,
            done: &done,
        };
        let layout = self.rows_layout;
        let choosing = self.choosing_rows(layout.decode_rows(), |row| layout.decode_row(row));
        let choosing_now = input.program.choosing();
        let choice = choice_inputs(devices, engine.spec(), choosing_now, &choosing)?;
        let outcome = engine.call(&program, inputs, choice.as_ref(), caches)?;
        let steps = devices.read_s32(&outcome.results.steps)?;
        let steps = steps.first().copied().unwrap_or(0);
        let chunk = DecodeChunk {
            tokens: devices.read_s32(&outcome.results.tokens)?,
            steps: usize::try_from(steps).unwrap_or(0).min(input.limit),
            last: devices.read_s32(&outcome.results.last)?,
            reports: Reports::read(devices, &outcome.choice, CHUNK)?,
            caches: outcome.caches,
            took: start.elapsed(),
        };
        if chunk.steps == 0 {
            // The loop ends early only when all rows are done, and then it is not called.
            return Err(Error::UnexpectedResult {
                program: "decode",
                expected: format!("up to {} steps", input.limit),
                found: "none".into(),
            });
        }
        engine.record(|times| times.decode += chunk.took);
        Ok(chunk)
    }

    /// The longest prompt's tokens.
    fn longest(&self) -> usize {
        let lengths = self.prompts.iter().map(|prompt| prompt.len());
        lengths.max().unwrap_or(1)
    }

    /// The rows as they stand, for a program of so many rows of all groups; `place` says which of
    /// those a prompt has.
    fn choosing_rows(
        &self,
        rows: usize,
        place: impl Fn(usize) -> usize,
    ) -> Vec<Option<ChoosingRow<'_>>> {
        let width = self.longest();
        let mut choosing = vec![None; rows];
        for (row, (prompt, state)) in self.prompts.iter().zip(&self.rows).enumerate() {
            choosing[place(row)] = Some(ChoosingRow {
                prompt,
                state,
                width,
                chooser: self.chooser,
                allowed: None,
            });
        }
        choosing
    }

    /// Takes new tokens of a row up to its end; they are reported in a row of a program.
    fn accept<B>(
        &mut self,
        row: usize,
        tokens: &[i32],
        (reports, reported_row): (Option<&Reports>, usize),
        tell: Tell<'_, B>,
    ) -> ControlFlow<B> {
        let eos = self.engine.spec().config.eos_token_ids();
        let before = self.rows[row].token_ids.len();
        let new = self.rows[row].accept(tokens, eos, |step, token| {
            let (reports, top) = (reports?, self.options.sampling.logprobs?);
            Some(reports.of(reported_row, step, token, top))
        });
        if (self.options.stream || self.options.watch) && !new.is_empty() {
            let number = self.first + row;
            let replies = self.options.sampling.num_return_sequences;
            let stop = Stop::default();
            tell(Event::Tokens {
                index: number / replies,
                sequence: number % replies,
                new,
                stop: &stop,
            })?;
            if let Some(kept) = stop.kept() {
                self.rows[row].stop(before + kept);
            }
        }
        ControlFlow::Continue(())
    }

    /// Reports finished rows, in order, from `reported` on.
    fn report<B>(
        &mut self,
        reported: &mut usize,
        tell: Tell<'_, B>,
        summary: &mut GenerateSummary,
    ) -> ControlFlow<B> {
        while let Some(row) = self.rows.get_mut(*reported) {
            let Some(finish_reason) = row.finished else {
                break;
            };
            summary.new_tokens += row.token_ids.len();
            let number = self.first + *reported;
            let replies = self.options.sampling.num_return_sequences;
            let generation = Generation {
                index: number / replies,
                sequence: number % replies,
                token_ids: std::mem::take(&mut row.token_ids),
                finish_reason,
                logprobs: std::mem::take(&mut row.logprobs),
            };
            *reported += 1;
            tell(Event::Finished(generation))?;
        }
        ControlFlow::Continue(())
    }

    fn pad(&self) -> i32 {
        self.engine.spec().config.padding_id() as i32
    }
}

/// The programs of a batch of `size` rows, the longest prompt of `longest` tokens.
pub(super) fn batch_programs(
    spec: &ModelSpec,
    size: usize,
    longest: usize,
    new_tokens: usize,
) -> BatchPrograms {
    let rows = RowsLayout::new(spec, size).prefill_rows();
    BatchPrograms::new(spec, rows, longest, new_tokens)
}

/// What a call of the decode program starts from.
struct DecodeCall<'a> {
    program: Decode,
    key_mask: &'a PerDevice,
    limit: usize,
    slot: usize,
    position: &'a [i32],
    token: &'a [i32],
}

/// What a call of the decode program gave.
struct DecodeChunk {
    /// [decode rows of all groups, CHUNK].
    tokens: Vec<i32>,
    steps: usize,
    last: Vec<i32>,
    reports: Option<Reports>,
    caches: DeviceCaches,
    took: Duration,
}

/// Where the rows of a batch lie: equal numbers of them in each group of the data axis, and more in
/// the decode program than in the prefill where the device wants them.
#[derive(Clone, Copy)]
struct RowsLayout {
    mesh: Mesh,
    /// Rows that prompts have, of a full batch.
    size: usize,
    /// Rows of a device's prefill.
    prefill: usize,
    /// Rows of a device's decode program.
    decode: usize,
}

impl RowsLayout {
    fn new(spec: &ModelSpec, size: usize) -> Self {
        let prefill = size.div_ceil(spec.mesh.data);
        Self {
            mesh: spec.mesh,
            size,
            prefill,
            decode: spec.decode_rows(prefill),
        }
    }

    /// Prefill rows of all groups.
    fn prefill_rows(self) -> usize {
        self.prefill * self.mesh.data
    }

    /// Decode rows of all groups.
    fn decode_rows(self) -> usize {
        self.decode * self.mesh.data
    }

    /// Where row `row` of the prefill goes on among the decode rows of all groups.
    fn decode_row(self, row: usize) -> usize {
        row / self.prefill * self.decode + row % self.prefill
    }
}
