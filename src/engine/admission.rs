//! How prompts come into the rows of a session: part by part, in all groups of the data axis at
//! once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::choice::Reports;
use super::error::Result;
use super::generation::{FinishReason, Row, TokenLogprob};
use super::session::{RowId, SHORTEST_CHUNK, Session, State};
use crate::model::programs::{Admit, AdmitInputs, Program};
use crate::sampling::Key;

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

impl Session<'_> {
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
        let mut waiting = self.none_waiting();
        let mut rows = Vec::new();
        for (index, admission) in admissions.iter().enumerate() {
            let Some(row) = self.next_free(&waiting) else {
                break;
            };
            rows.push(row);
            let arriving = self.take(index, row, admission, 0);
            waiting[row / self.rows_on_device].push_back(arriving);
        }
        self.run_arriving(&mut waiting, &rows)
    }

    /// Gives a row that a prompt has another one, in place of the first: what both have in common
    /// at their beginning, reply included, is not run again. How many tokens that are, and what
    /// the new one became; nothing where the row is free.
    ///
    /// # Errors
    /// As [`admit`](Self::admit). The row is free after a device has failed, and as it was after any
    /// other error.
    pub fn readmit(
        &mut self,
        row: RowId,
        admission: Admission<'_>,
    ) -> Result<(usize, Option<Admitted>)> {
        let prompt = admission.prompt;
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
        let mut waiting = self.none_waiting();
        let arriving = self.take(0, row, &admission, start);
        waiting[row / self.rows_on_device].push_back(arriving);
        let mut admitted = self.run_arriving(&mut waiting, &[row])?;
        Ok((start, admitted.pop()))
    }

    /// Gives a row to a prompt, of which `start` tokens are in the caches already.
    fn take<'p>(
        &mut self,
        index: usize,
        row: usize,
        admission: &Admission<'p>,
        start: usize,
    ) -> Arriving<'p> {
        let prompt = admission.prompt;
        let limit = admission
            .new_tokens
            .clamp(1, self.max_length - prompt.len());
        self.rows[row] = State::Taken {
            length: 0,
            token: 0,
            prompt: prompt.to_vec(),
            generated: Row::new(limit, admission.key, 0),
        };
        Arriving {
            index,
            row,
            prompt,
            start,
        }
    }

    /// A queue for each group of the data axis.
    fn none_waiting<'p>(&self) -> Vec<VecDeque<Arriving<'p>>> {
        vec![VecDeque::new(); self.engine.spec().mesh.data]
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

    /// Runs the prompts of all groups into their rows, which are free where a device fails.
    fn run_arriving(
        &mut self,
        waiting: &mut [VecDeque<Arriving<'_>>],
        rows: &[usize],
    ) -> Result<Vec<Admitted>> {
        let outcome = self.run_all_parts(waiting, rows.len());
        if outcome.is_err() {
            rows.iter().for_each(|&row| self.rows[row] = State::Free);
        }
        outcome
    }

    /// Runs the prompts of all groups, of which there are `count`, part by part.
    fn run_all_parts(
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

    pub(super) fn admit_program(&self, chunk: usize) -> Admit {
        Admit {
            chunk,
            rows: self.rows_on_device,
            cache: self.cache,
            choice: self.chooser.choice(),
        }
    }
}
