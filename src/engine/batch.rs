//! One batch on its way: left-padded prompts, a prefill, then decode loops on the device.

use std::time::{Duration, Instant};

use super::devices::PerDevice;
use super::generate::{FinishReason, GenerateOptions, GenerateSummary, Generation, Observer};
use super::programs::{BatchPrograms, CHUNK};
use super::prompts::PaddedPrompts;
use super::{Engine, Error, ProgramKey, Result};
use crate::model::programs::{DecodeShape, decode_result};
use crate::sharding::Mesh;

/// Steps a call when somebody watches the tokens come.
const STREAMED_CHUNK: usize = 1;

/// A batch on its way.
pub(super) struct BatchRun<'a> {
    engine: &'a Engine,
    prompts: &'a [Vec<u32>],
    rows_layout: RowsLayout,
    /// Index of the first prompt.
    first: usize,
    stream: bool,
    rows: Vec<Row>,
}

struct Row {
    token_ids: Vec<u32>,
    /// New tokens that this row may have.
    limit: usize,
    finished: Option<FinishReason>,
}

impl<'a> BatchRun<'a> {
    pub fn new(
        engine: &'a Engine,
        prompts: &'a [Vec<u32>],
        size: usize,
        first: usize,
        options: &GenerateOptions,
    ) -> Self {
        let mesh = engine.spec.geometry.mesh;
        let prefill = size.div_ceil(mesh.data);
        let rows_layout = RowsLayout {
            mesh,
            prefill,
            decode: engine.spec.decode_rows(prefill),
        };
        let positions = engine.spec.config.max_position_embeddings;
        let rows = prompts
            .iter()
            .map(|prompt| Row {
                token_ids: Vec::new(),
                limit: options.max_new_tokens.min(positions - prompt.len()),
                finished: None,
            })
            .collect();
        Self {
            engine,
            prompts,
            rows_layout,
            first,
            stream: options.stream,
            rows,
        }
    }

    /// Prefill, then decode until every row is finished. Rows are reported in order, each once all before
    /// it are.
    pub fn run(
        &mut self,
        observer: &mut dyn Observer,
        summary: &mut GenerateSummary,
    ) -> Result<()> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(1);
        let new_tokens = self.rows.iter().map(|row| row.limit).max().unwrap_or(1);
        let layout = self.rows_layout;
        let rows = layout.prefill_rows();
        let programs = BatchPrograms::new(&self.engine.spec, rows, longest, new_tokens);
        let prompts = PaddedPrompts::new(self.prompts, programs.prompt(), self.pad());
        let mut reported = 0;

        let (first_tokens, mut caches, took) = prompts.prefill(self.engine, &programs, rows)?;
        observer.prefilled(took);
        let mut token = vec![self.pad(); layout.decode_rows()];
        let mut position = vec![0; layout.decode_rows()];
        for (row, prompt) in self.prompts.iter().enumerate() {
            token[layout.decode_row(row)] = first_tokens[row];
            position[layout.decode_row(row)] = prompt.len() as i32;
            self.accept(row, &first_tokens[row..=row], observer);
        }
        self.report(&mut reported, observer, summary);

        let decode_row = |row| layout.decode_row(row);
        let rows = layout.decode_rows();
        let mask = prompts.key_mask(rows, programs.decode.cache, decode_row);
        let dims = [layout.decode as i64, programs.decode.cache as i64];
        let key_mask = self.engine.devices.upload_rows_s32(&mask, &dims)?;
        let mut slot = programs.prompt();
        while reported < self.rows.len() {
            if observer.interrupted() {
                summary.interrupted = true;
                return Ok(());
            }
            let left = self
                .rows
                .iter()
                .filter(|row| row.finished.is_none())
                .map(|row| row.limit - row.token_ids.len())
                .max()
                .unwrap_or(0);
            let step = if self.stream { STREAMED_CHUNK } else { CHUNK };
            let state = DecodeInput {
                shape: programs.decode,
                limit: left.min(step),
                slot,
                position: &position,
                token: &token,
            };
            let chunk = self.decode(state, &key_mask, caches)?;
            observer.decoded(chunk.steps, chunk.took);
            caches = chunk.caches;
            slot += chunk.steps;
            position.iter_mut().for_each(|p| *p += chunk.steps as i32);
            token = chunk.last;
            summary.steps += chunk.steps;
            for row in 0..self.rows.len() {
                let tokens = &chunk.tokens[layout.decode_row(row) * CHUNK..][..chunk.steps];
                self.accept(row, tokens, observer);
            }
            self.report(&mut reported, observer, summary);
        }
        Ok(())
    }

    fn decode(
        &self,
        input: DecodeInput<'_>,
        key_mask: &PerDevice,
        caches: Vec<PerDevice>,
    ) -> Result<DecodeChunk> {
        let engine = self.engine;
        let devices = &engine.devices;
        let program = engine.program(ProgramKey::Decode(input.shape))?;
        let start = Instant::now();
        let mut done = vec![1_u8; self.rows_layout.decode_rows()];
        for (row, state) in self.rows.iter().enumerate() {
            done[self.rows_layout.decode_row(row)] = u8::from(state.finished.is_some());
        }
        let dims = [input.shape.rows as i64];
        let limit = devices.upload_scalar(input.limit as i32)?;
        let slot = devices.upload_scalar(input.slot as i32)?;
        let position = devices.upload_rows_s32(input.position, &dims)?;
        let token = devices.upload_rows_s32(input.token, &dims)?;
        let done = devices.upload_rows(&done, hlo::ElementType::Pred, &dims)?;
        let mut rest = vec![key_mask, &limit, &slot, &position, &token, &done];
        rest.extend(&caches);
        let mut results = engine.run(&program, &rest)?;
        expect_results(
            "decode",
            &results,
            decode_result::CACHES + 2 * engine.spec.config.num_hidden_layers,
        )?;
        let caches = results.split_off(decode_result::CACHES);
        let steps = devices.read_s32(&results[decode_result::STEPS])?;
        let steps = steps.first().copied().unwrap_or(0);
        let chunk = DecodeChunk {
            tokens: devices.read_s32(&results[decode_result::TOKENS])?,
            steps: usize::try_from(steps).unwrap_or(0).min(input.limit),
            last: devices.read_s32(&results[decode_result::LAST])?,
            caches,
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

    /// Takes new tokens of a row up to its end.
    fn accept(&mut self, row: usize, tokens: &[i32], observer: &mut dyn Observer) {
        let eos = &self.engine.spec.config.eos_token_ids;
        let state = &mut self.rows[row];
        let before = state.token_ids.len();
        for &token in tokens {
            if state.finished.is_some() {
                break;
            }
            let token = token as u32;
            state.token_ids.push(token);
            if eos.contains(&token) {
                state.finished = Some(FinishReason::Eos);
            } else if state.token_ids.len() == state.limit {
                state.finished = Some(FinishReason::Length);
            }
        }
        if self.stream && state.token_ids.len() > before {
            observer.tokens(self.first + row, &state.token_ids[before..]);
        }
    }

    /// Reports finished rows, in order, from `reported` on.
    fn report(
        &mut self,
        reported: &mut usize,
        observer: &mut dyn Observer,
        summary: &mut GenerateSummary,
    ) {
        while let Some(row) = self.rows.get_mut(*reported) {
            let Some(finish_reason) = row.finished else {
                break;
            };
            summary.new_tokens += row.token_ids.len();
            observer.finished(Generation {
                index: self.first + *reported,
                token_ids: std::mem::take(&mut row.token_ids),
                finish_reason,
            });
            *reported += 1;
        }
    }

    fn pad(&self) -> i32 {
        self.engine.spec.config.padding_id() as i32
    }
}

/// What a call of the decode program starts from.
struct DecodeInput<'a> {
    shape: DecodeShape,
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
    caches: Vec<PerDevice>,
    took: Duration,
}

/// Where the rows of a batch lie: equal numbers of them in each group of the data axis, and more in the decode program than in
/// the prefill where the device wants them.
#[derive(Clone, Copy)]
struct RowsLayout {
    mesh: Mesh,
    /// Rows of a device's prefill.
    prefill: usize,
    /// Rows of a device's decode program.
    decode: usize,
}

impl RowsLayout {
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

pub(super) fn expect_results(
    program: &'static str,
    results: &[PerDevice],
    expected: usize,
) -> Result<()> {
    if results.len() == expected {
        return Ok(());
    }
    Err(Error::UnexpectedResult {
        program,
        expected: format!("{expected} arrays"),
        found: results.len().to_string(),
    })
}
