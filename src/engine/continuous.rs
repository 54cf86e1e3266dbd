//! More prompts than rows: a session whose rows are given to the next prompt as they end.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::batch::{Tell, or_break};
use super::buckets::{prompt_bucket, prompt_chunk};
use super::core::Engine;
use super::error::Result;
use super::generation::{Event, FinishReason, GenerateOptions, GenerateSummary, Generation};
use super::program_key::CHUNK;
use super::session::{RowId, Session, SessionOptions};

/// Prompts on their way through a session.
pub(super) struct ContinuousRun<'a> {
    session: Session<'a>,
    prompts: &'a [Vec<u32>],
    options: &'a GenerateOptions,
    /// The first prompt that has no row yet.
    next: usize,
    /// The first prompt that is not reported yet.
    reported: usize,
    /// The prompts that have rows, with their new tokens.
    running: BTreeMap<RowId, (usize, Vec<u32>)>,
    /// The finished prompts that wait for one before them.
    finished: BTreeMap<usize, (Vec<u32>, FinishReason)>,
}

impl<'a> ContinuousRun<'a> {
    pub fn new(
        engine: &'a Engine,
        prompts: &'a [Vec<u32>],
        options: &'a GenerateOptions,
    ) -> Result<Self> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let size = SessionOptions {
            rows: options.batch_size,
            max_length: longest.saturating_add(options.max_new_tokens),
            prefill_chunk: prompt_bucket(longest).min(prompt_chunk(1)),
        };
        Ok(Self {
            session: Session::new(engine, &size)?,
            prompts,
            options,
            next: 0,
            reported: 0,
            running: BTreeMap::new(),
            finished: BTreeMap::new(),
        })
    }

    /// Runs until every prompt is finished. Breaks with what `tell` breaks with.
    pub fn run<B>(
        &mut self,
        tell: Tell<'_, B>,
        summary: &mut GenerateSummary,
    ) -> Result<ControlFlow<B>> {
        while self.reported < self.prompts.len() {
            while self.next < self.prompts.len() && self.session.free_rows() > 0 {
                or_break!(self.admit(tell)?);
                or_break!(self.report(tell, summary));
            }
            if self.running.is_empty() {
                continue;
            }
            let steps = if self.options.stream { 1 } else { CHUNK };
            let waiting = self.next < self.prompts.len();
            let stepped = self.session.step(steps, waiting)?;
            summary.steps += stepped.steps;
            or_break!(tell(Event::Decoded {
                steps: stepped.steps,
                took: stepped.took,
            }));
            for (row, new, finished) in stepped.rows {
                or_break!(self.accept(row, &new, finished, tell));
            }
            or_break!(self.report(tell, summary));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Gives the next prompt a row that is free.
    fn admit<B>(&mut self, tell: Tell<'_, B>) -> Result<ControlFlow<B>> {
        let index = self.next;
        let prompt = &self.prompts[index];
        let admitted = self.session.admit(prompt, self.options.max_new_tokens)?;
        let Some(admitted) = admitted else {
            return Ok(ControlFlow::Continue(()));
        };
        self.next += 1;
        self.running.insert(admitted.row, (index, Vec::new()));
        or_break!(tell(Event::Prefilled(admitted.took)));
        Ok(self.accept(admitted.row, &[admitted.token], admitted.finished, tell))
    }

    /// Takes new tokens of a row, and frees it at its end.
    fn accept<B>(
        &mut self,
        row: RowId,
        new: &[u32],
        finished: Option<FinishReason>,
        tell: Tell<'_, B>,
    ) -> ControlFlow<B> {
        let Some((index, tokens)) = self.running.get_mut(&row) else {
            return ControlFlow::Continue(());
        };
        let index = *index;
        tokens.extend(new);
        if let Some(reason) = finished {
            let tokens = std::mem::take(tokens);
            self.running.remove(&row);
            self.session.free(row);
            self.finished.insert(index, (tokens, reason));
        }
        if self.options.stream && !new.is_empty() {
            return tell(Event::Tokens { index, new });
        }
        ControlFlow::Continue(())
    }

    /// Reports finished prompts, each once all before it are.
    fn report<B>(&mut self, tell: Tell<'_, B>, summary: &mut GenerateSummary) -> ControlFlow<B> {
        while let Some((token_ids, finish_reason)) = self.finished.remove(&self.reported) {
            summary.new_tokens += token_ids.len();
            let index = self.reported;
            self.reported += 1;
            tell(Event::Finished(Generation {
                index,
                token_ids,
                finish_reason,
            }))?;
        }
        ControlFlow::Continue(())
    }
}
