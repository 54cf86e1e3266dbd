//! Batch greedy generation: left-padded prompts, one prefill, then decode loops on the device.

use std::time::Instant;

use super::buckets::{cache_bucket, prompt_bucket};
use super::devices::PerDevice;
use super::{Engine, Error, ProgramKey, Result};
use crate::model::programs::{DecodeShape, PrefillShape, decode_result};
use crate::sharding::Mesh;

/// Steps that one call of the decode program can run. A call costs the host well under a
/// millisecond, so more would gain nothing, and an interruption is noticed between calls.
const CHUNK: usize = 32;
/// Steps a call when somebody watches the tokens come.
const STREAMED_CHUNK: usize = 1;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions {
    /// New tokens a prompt at most, at least 1.
    pub max_new_tokens: usize,
    /// Prompts that are run together, at least 1.
    pub batch_size: usize,
    /// Whether tokens are wanted as they come.
    pub stream: bool,
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It produced an end-of-sequence token.
    Eos,
    /// It reached the most new tokens allowed.
    Length,
}

impl FinishReason {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Eos => "eos",
            FinishReason::Length => "length",
        }
    }
}

/// What one prompt became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The prompt's place in the input, from 0.
    pub index: usize,
    /// New tokens, the end-of-sequence token included, no padding.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Who is told what happens during [`Engine::generate`].
pub trait Observer {
    /// New tokens of a row that is not finished, when they are streamed.
    fn tokens(&mut self, _index: usize, _new: &[u32]) {}
    /// A finished row; rows come in the order of the prompts.
    fn finished(&mut self, generation: Generation);
    /// Whether to stop; asked between calls of the device.
    fn interrupted(&self) -> bool {
        false
    }
    /// Fewer new tokens than asked for can follow a prompt, since positions end.
    fn shortened(&mut self, _index: usize, _to: usize) {}
}

/// What a whole generation did.
#[derive(Clone, Copy, Debug, Default)]
pub struct GenerateSummary {
    /// New tokens over all finished rows.
    pub new_tokens: usize,
    /// Decode steps run.
    pub steps: usize,
    /// Whether it was interrupted before all rows were finished.
    pub interrupted: bool,
}

impl Engine {
    /// Generates greedily after each prompt, in batches, and tells `observer` of each result in order.
    ///
    /// # Errors
    /// An empty prompt, one that is too long, an id outside of the vocabulary (all checked before anything
    /// runs), or a device that fails.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        observer: &mut dyn Observer,
    ) -> Result<GenerateSummary> {
        for (option, value) in [
            ("--max-new-tokens", options.max_new_tokens),
            ("--batch-size", options.batch_size),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(Error::Option {
                    option,
                    problem: format!("{value} is not between 1 and {}", i32::MAX),
                });
            }
        }
        self.check_prompts(prompts)?;
        let positions = self.spec.config.max_position_embeddings;
        for (index, prompt) in prompts.iter().enumerate() {
            let room = positions - prompt.len();
            if room < options.max_new_tokens {
                observer.shortened(index, room);
            }
        }
        let mut summary = GenerateSummary::default();
        for (number, batch) in prompts.chunks(options.batch_size).enumerate() {
            if observer.interrupted() {
                summary.interrupted = true;
                break;
            }
            // A short last batch runs in the program of the full ones.
            let size = options.batch_size.min(prompts.len());
            let mut run = BatchRun::new(self, batch, size, number * options.batch_size, options);
            run.run(observer, &mut summary)?;
        }
        Ok(summary)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let config = &self.spec.config;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::EmptyPrompt { index });
            }
            if prompt.len() >= config.max_position_embeddings {
                return Err(Error::PromptTooLong {
                    index,
                    tokens: prompt.len(),
                    limit: config.max_position_embeddings,
                });
            }
            if let Some(&id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
                return Err(Error::TokenOutOfRange {
                    index,
                    id,
                    vocab_size: config.vocab_size,
                });
            }
        }
        Ok(())
    }
}

/// A batch on its way.
struct BatchRun<'a> {
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
    fn new(
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
    fn run(&mut self, observer: &mut dyn Observer, summary: &mut GenerateSummary) -> Result<()> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(1);
        let new_tokens = self.rows.iter().map(|row| row.limit).max().unwrap_or(1);
        let prompt = prompt_bucket(longest);
        let cache = cache_bucket(prompt + new_tokens);
        let layout = self.rows_layout;
        let mut reported = 0;

        let start = Instant::now();
        let compile_before = self.engine.times().compile;
        let mut results = self.prefill(PrefillShape {
            batch: layout.prefill,
            prompt,
            rows: layout.decode,
            cache,
        })?;
        let mut caches = results.split_off(1);
        let first_tokens = self.engine.devices.rows_s32(&results[0])?;
        let compiled = self.engine.times().compile - compile_before;
        let elapsed = start.elapsed().saturating_sub(compiled);
        self.engine.record(|times| times.prefill += elapsed);

        let mut token = vec![self.pad(); layout.decode_rows()];
        let mut position = vec![0; layout.decode_rows()];
        for (row, prompt) in self.prompts.iter().enumerate() {
            token[layout.decode_row(row)] = first_tokens[row];
            position[layout.decode_row(row)] = prompt.len() as i32;
            self.accept(row, &first_tokens[row..=row], observer);
        }
        self.report(&mut reported, observer, summary);

        let mask = self.decode_mask(prompt, cache);
        let dims = [layout.decode as i64, cache as i64];
        let key_mask = self.engine.devices.upload_rows_s32(&mask, &dims)?;
        let mut slot = prompt;
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
                shape: DecodeShape {
                    rows: layout.decode,
                    cache,
                    chunk: CHUNK,
                },
                limit: left.min(step),
                slot,
                position: &position,
                token: &token,
            };
            let chunk = self.decode(state, &key_mask, caches)?;
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

    /// The mask of the cache's slots over all devices: the prompts' attention mask, padded on the left to `prompt`, and ones for
    /// what follows: [decode rows, cache]. A row without a prompt sees one token, so that its softmax is defined.
    fn decode_mask(&self, prompt: usize, cache: usize) -> Vec<i32> {
        let mut mask = vec![1; self.rows_layout.decode_rows() * cache];
        for mask in mask.chunks_exact_mut(cache) {
            mask[..prompt - 1].fill(0);
        }
        for (row, tokens) in self.prompts.iter().enumerate() {
            let start = self.rows_layout.decode_row(row) * cache;
            mask[start + prompt - tokens.len()..start + prompt].fill(1);
        }
        mask
    }

    /// Runs the prompts, padded on the left to `shape.prompt`.
    fn prefill(&self, shape: PrefillShape) -> Result<Vec<PerDevice>> {
        let program = self.engine.program(ProgramKey::Prefill(shape))?;
        let rows = self.rows_layout.prefill_rows();
        let mut ids = vec![self.pad(); rows * shape.prompt];
        let mut mask = vec![0; rows * shape.prompt];
        for row in 0..rows {
            let end = (row + 1) * shape.prompt;
            // A row without a prompt sees one token, so that its softmax is defined.
            let prompt = self.prompts.get(row).map_or(&[0][..], Vec::as_slice);
            mask[end - prompt.len()..end].fill(1);
            for (id, &token) in ids[end - prompt.len()..end].iter_mut().zip(prompt) {
                *id = token as i32;
            }
        }
        let devices = &self.engine.devices;
        let dims = [shape.batch as i64, shape.prompt as i64];
        let ids = devices.upload_rows_s32(&ids, &dims)?;
        let mask = devices.upload_rows_s32(&mask, &dims)?;
        let results = self.engine.run(&program, &[&ids, &mask])?;
        let expected = 1 + 2 * self.engine.spec.config.num_hidden_layers;
        expect_results("prefill", &results, expected)?;
        Ok(results)
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
        let steps = devices.rows_s32(&results[decode_result::STEPS])?;
        let steps = steps.first().copied().unwrap_or(0);
        let chunk = DecodeChunk {
            tokens: devices.rows_s32(&results[decode_result::TOKENS])?,
            steps: usize::try_from(steps).unwrap_or(0).min(input.limit),
            last: devices.rows_s32(&results[decode_result::LAST])?,
            caches,
        };
        if chunk.steps == 0 {
            // The loop ends early only when all rows are done, and then it is not called.
            return Err(Error::UnexpectedResult {
                program: "decode",
                expected: format!("up to {} steps", input.limit),
                found: "none".into(),
            });
        }
        engine.record(|times| times.decode += start.elapsed());
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

fn expect_results(program: &'static str, results: &[PerDevice], expected: usize) -> Result<()> {
    if results.len() == expected {
        return Ok(());
    }
    Err(Error::UnexpectedResult {
        program,
        expected: format!("{expected} arrays"),
        found: results.len().to_string(),
    })
}
