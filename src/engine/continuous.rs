//! More prompts than rows: a session whose rows are given to the next prompt as they end.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;

use super::admission::Admission;
use super::batch::{Tell, or_break};
use super::buckets::{cache_bucket, prompt_bucket, prompt_chunk};
use super::choice::Chooser;
use super::core::Engine;
use super::error::Result;
use super::generation::{
    Event, FinishReason, GenerateOptions, GenerateSummary, Generation, Job, Stop, TokenLogprob,
};
use super::options::SessionOptions;
use super::program_key::CHUNK;
use super::session::{RowId, Session};
use crate::model::ModelSpec;

/// Replies that are waited for together, for each row: prompts of like length are run near each
/// other among them. They bound what is kept in memory.
const LOOKAHEAD: usize = 32;

/// Jobs on their way through a session.
pub(super) struct ContinuousRun<'a> {
    engine: &'a Engine,
    options: &'a GenerateOptions,
    chooser: Chooser,
    source: &'a mut dyn Iterator<Item = Job>,
    /// None before the first prompt.
    session: Option<Session<'a>>,
    /// Replies that have no row yet.
    waiting: VecDeque<Reply>,
    /// Replies so far, waiting or not.
    read: usize,
    /// The first reply that is not reported yet.
    reported: usize,
    running: BTreeMap<RowId, Reply>,
    /// The finished replies that wait for one before them.
    finished: BTreeMap<usize, (Reply, FinishReason)>,
}

/// A reply to a prompt.
struct Reply {
    /// Its place among all replies.
    number: usize,
    /// Its prompt's place in the input.
    index: usize,
    sequence: usize,
    prompt: Rc<[u32]>,
    /// New tokens that it may have.
    limit: usize,
    token_ids: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
}

impl<'a> ContinuousRun<'a> {
    pub fn new(
        engine: &'a Engine,
        source: &'a mut dyn Iterator<Item = Job>,
        options: &'a GenerateOptions,
    ) -> Self {
        Self {
            engine,
            chooser: Chooser::new(engine.spec(), &options.sampling),
            options,
            source,
            session: None,
            waiting: VecDeque::new(),
            read: 0,
            reported: 0,
            running: BTreeMap::new(),
            finished: BTreeMap::new(),
        }
    }

    /// Runs until every prompt is finished. Breaks with what `tell` breaks with.
    pub fn run<B>(
        &mut self,
        tell: Tell<'_, B>,
        summary: &mut GenerateSummary,
    ) -> Result<ControlFlow<B>> {
        loop {
            or_break!(self.read_ahead(tell)?);
            if self.waiting.is_empty() && self.running.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            or_break!(self.admit(tell)?);
            or_break!(self.report(tell, summary));
            let Some(session) = self.session.as_mut().filter(|_| !self.running.is_empty()) else {
                continue;
            };
            let steps = if self.options.stream { 1 } else { CHUNK };
            let stepped = session.step(steps, !self.waiting.is_empty())?;
            summary.steps += stepped.steps;
            or_break!(tell(Event::Decoded {
                steps: stepped.steps,
                took: stepped.took,
            }));
            let mut logprobs = stepped.logprobs.into_iter();
            for (row, new, finished) in stepped.rows {
                let logprobs = logprobs.next().unwrap_or_default();
                or_break!(self.accept(row, &new, logprobs, finished, tell));
            }
            or_break!(self.report(tell, summary));
        }
    }

    /// Reads prompts while few wait, unless too many replies wait for a slow one before them.
    fn read_ahead<B>(&mut self, tell: Tell<'_, B>) -> Result<ControlFlow<B>> {
        let most = LOOKAHEAD * self.options.batch_size.max(8);
        if !self.waiting.is_empty() || self.read - self.reported > 2 * most {
            return Ok(ControlFlow::Continue(()));
        }
        let replies = self.options.sampling.num_return_sequences;
        let positions = self.engine.spec().config.max_position_embeddings();
        let mut group: Vec<Reply> = Vec::new();
        while group.len() < most {
            let Some(Job {
                index,
                prompt,
                new_tokens,
            }) = self.source.next()
            else {
                break;
            };
            self.engine.check_prompt(index, &prompt, positions)?;
            let to = positions - prompt.len();
            if to < self.options.max_new_tokens {
                or_break!(tell(Event::Shortened { index, to }));
            }
            let limit = self
                .options
                .limit(prompt.len(), prompt.len(), positions)
                .min(new_tokens.unwrap_or(usize::MAX))
                .max(1);
            let prompt: Rc<[u32]> = prompt.into();
            for sequence in 0..replies {
                group.push(Reply {
                    number: self.read,
                    index,
                    sequence,
                    prompt: prompt.clone(),
                    limit,
                    token_ids: Vec::new(),
                    logprobs: Vec::new(),
                });
                self.read += 1;
            }
        }
        // The longest first: what is left to the end of a group is short.
        group.sort_by_key(|reply| std::cmp::Reverse(prompt_bucket(reply.prompt.len())));
        self.waiting = group.into();
        Ok(ControlFlow::Continue(()))
    }

    /// Makes a session that the prompts which wait fit in, where the last one is too short for
    /// them and empty.
    fn fit_session(&mut self) -> Result<()> {
        let lengths = self.waiting.iter().map(|reply| reply.prompt.len());
        let Some(longest) = lengths.max() else {
            return Ok(());
        };
        let positions = self.engine.spec().config.max_position_embeddings();
        let wanted = (longest + self.options.max_new_tokens).min(positions);
        let fits = |session: &Session<'_>| session.max_length() >= wanted;
        if self.session.as_ref().is_some_and(fits) || !self.running.is_empty() {
            return Ok(());
        }
        let size = session_options(self.engine.spec(), longest, self.options);
        // The old one's caches are released first.
        self.session = None;
        self.session = Some(Session::new(self.engine, &size)?);
        Ok(())
    }

    /// Gives the next prompts the rows that are free. One that does not fit in the session's rows
    /// waits until all others have ended.
    fn admit<B>(&mut self, tell: Tell<'_, B>) -> Result<ControlFlow<B>> {
        self.fit_session()?;
        let Some(session) = &mut self.session else {
            return Ok(ControlFlow::Continue(()));
        };
        let positions = self.engine.spec().config.max_position_embeddings();
        let most = session.max_length();
        let fits = |reply: &&Reply| {
            let wanted = reply.prompt.len() + self.options.max_new_tokens;
            wanted.min(positions) <= most
        };
        let mut begun = 0;
        while let Some(reply) = self.waiting.front().filter(fits) {
            let key = self.chooser.own_key(reply.index, reply.sequence);
            let admission = Admission::new(&reply.prompt, reply.limit, key);
            let Some(admitted) = session.begin(&admission)? else {
                break;
            };
            begun += 1;
            let reply = self.waiting.pop_front();
            self.running
                .extend(reply.map(|reply| (admitted.row, reply)));
        }
        let took = session.prefill_all()?;
        for _ in 0..begun {
            or_break!(tell(Event::Prefilled(took / begun)));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes new tokens of a row, and frees it at its end.
    fn accept<B>(
        &mut self,
        row: RowId,
        new: &[u32],
        logprobs: Vec<TokenLogprob>,
        mut finished: Option<FinishReason>,
        tell: Tell<'_, B>,
    ) -> ControlFlow<B> {
        let Some(reply) = self.running.get_mut(&row) else {
            return ControlFlow::Continue(());
        };
        let before = reply.token_ids.len();
        reply.token_ids.extend(new);
        reply.logprobs.extend(logprobs);
        if (self.options.stream || self.options.watch) && !new.is_empty() {
            let stop = Stop::default();
            tell(Event::Tokens {
                index: reply.index,
                sequence: reply.sequence,
                new,
                stop: &stop,
            })?;
            if let Some(kept) = stop.kept() {
                reply.token_ids.truncate(before + kept);
                reply.logprobs.truncate(before + kept);
                finished = Some(FinishReason::Stop);
            }
        }
        if let Some(reason) = finished
            && let Some(reply) = self.running.remove(&row)
        {
            if let Some(session) = &mut self.session {
                session.free(row);
            }
            self.finished.insert(reply.number, (reply, reason));
        }
        ControlFlow::Continue(())
    }

    /// Reports finished replies, each once all before it are.
    fn report<B>(&mut self, tell: Tell<'_, B>, summary: &mut GenerateSummary) -> ControlFlow<B> {
        while let Some((reply, finish_reason)) = self.finished.remove(&self.reported) {
            summary.new_tokens += reply.token_ids.len();
            self.reported += 1;
            tell(Event::Finished(Generation {
                index: reply.index,
                sequence: reply.sequence,
                token_ids: reply.token_ids,
                finish_reason,
                logprobs: reply.logprobs,
            }))?;
        }
        ControlFlow::Continue(())
    }
}

/// The session that prompts of up to `longest` tokens run in.
pub(super) fn session_options(
    spec: &ModelSpec,
    longest: usize,
    options: &GenerateOptions,
) -> SessionOptions {
    let positions = spec.config.max_position_embeddings();
    let wanted = longest
        .saturating_add(options.max_new_tokens)
        .min(positions);
    let chunk = prompt_bucket(longest).min(prompt_chunk(1));
    SessionOptions {
        rows: options.batch_size,
        // All that a cache of that bucket has room for, so that longer prompts find it.
        max_length: (cache_bucket(wanted + chunk) - chunk).min(positions),
        prefill_chunk: chunk,
        sampling: options.sampling.clone(),
        ..SessionOptions::default()
    }
}
