//! How prompts come into the rows of a session: part by part, in all groups of the data axis at
//! once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choice::Chooser;
use super::error::{Error, Result};
use super::generation::{Row, TokenLogprob};
use super::options::SHORTEST_PART;
use super::session::{RowId, Session, State, Taken};
use crate::model::ChoiceInputs;
use crate::model::programs::{Admit, AdmitInputs, AdmitScored, AdmitScoredInputs};
use crate::sampling::{Key, MAX_LOGPROBS, SamplingOptions};

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
    /// How its tokens are chosen, where not as the session's options say.
    pub sampling: Option<&'a SamplingOptions>,
    /// How many of the most likely tokens are reported in each place of the prompt, with its own
    /// token; nothing is where there is nothing.
    pub score: Option<usize>,
}

impl<'a> Admission<'a> {
    /// A prompt whose tokens are chosen as the session's options say.
    pub fn new(prompt: &'a [u32], new_tokens: usize, key: Key) -> Self {
        Self {
            prompt,
            new_tokens,
            key,
            sampling: None,
            score: None,
        }
    }
}

/// What a prompt was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its row.
    pub row: RowId,
    /// Tokens of it that the row had from a prompt before.
    pub reused: usize,
}

/// What a call of [`Session::prefill`] ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefilled {
    /// Tokens, of all prompts that it ran a part of.
    pub tokens: usize,
    /// How likely tokens of prompts were that are scored: of each the row, and its tokens from the
    /// first that has any before it on, a part at a time.
    pub scores: Vec<(RowId, Vec<TokenLogprob>)>,
    /// The time that it took, without compiling.
    pub took: Duration,
}

/// A part of a prompt that runs next.
#[derive(Clone)]
struct Part {
    row: usize,
    /// The position of its first token.
    start: usize,
    tokens: Vec<u32>,
    /// The token after each of them.
    targets: Vec<u32>,
    scored: Option<usize>,
}

impl Session<'_> {
    /// Admits a prompt to a free row, to generate up to `new_tokens` after it, and runs it. None
    /// where no row is free. Its random key is that of the session's seed.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), and a device that fails.
    pub fn admit(&mut self, prompt: &[u32], new_tokens: usize) -> Result<Option<Admitted>> {
        let key = self.chooser.batch_key();
        let admitted = self.begin(&Admission::new(prompt, new_tokens, key))?;
        self.prefill_all()?;
        Ok(admitted)
    }

    /// Gives a prompt a free row, without running it yet: [`prefill`](Self::prefill) does that, part
    /// by part, and [`step`](Self::step) then gives its first token. None where no row is free.
    ///
    /// # Errors
    /// A prompt that is empty or does not fit with a new token, an id outside of the vocabulary,
    /// sampling options that cannot be used or that the session was not made for.
    pub fn begin(&mut self, admission: &Admission<'_>) -> Result<Option<Admitted>> {
        let prompt = admission.prompt;
        self.engine.check_prompt(0, prompt, self.max_length)?;
        let chooser = self.chooser_of(admission)?;
        let Some((row, reused)) = self.free_row(admission) else {
            return Ok(None);
        };
        let limit = admission
            .new_tokens
            .clamp(1, self.max_length - prompt.len());
        let generated = Row::new(limit, admission.key, 0);
        let taken = Taken::new(
            self.admitted,
            prompt.to_vec(),
            reused,
            generated,
            chooser,
            admission.score,
        );
        self.admitted += 1;
        self.rows[row] = State::Taken(Box::new(taken));
        let row = RowId(row);
        Ok(Some(Admitted { row, reused }))
    }

    fn chooser_of(&self, admission: &Admission<'_>) -> Result<Arc<Chooser>> {
        let argument = |argument, problem: String| Err(Error::Argument { argument, problem });
        if !self.own_sampling && (admission.sampling.is_some() || admission.score.is_some()) {
            let problem = "the session was made without own_sampling".to_owned();
            return argument("sampling", problem);
        }
        if admission.score.is_some_and(|top| top > MAX_LOGPROBS) {
            return argument("score", format!("it is above {MAX_LOGPROBS}"));
        }
        let Some(sampling) = admission.sampling else {
            return Ok(self.chooser.clone());
        };
        let spec = self.engine.spec();
        sampling.validate(spec.gemma.spec().vocabulary.size(), self.max_length)?;
        let chooser = Chooser::new(spec, sampling);
        match chooser.beyond(self.most_choice()) {
            Some((name, problem)) => argument(name, problem),
            None => Ok(Arc::new(chooser)),
        }
    }

    /// The free row for a prompt, and how many of its tokens the row has already: in the group with
    /// the fewest prompts that run, or where most of it is.
    fn free_row(&self, admission: &Admission<'_>) -> Option<(usize, usize)> {
        let mut arriving = vec![0_usize; self.engine.spec().mesh.data];
        for (row, _) in self.taken().filter(|(_, row)| row.is_arriving()) {
            arriving[row / self.rows_on_device] += 1;
        }
        // A score needs every token to run.
        let reuse = self.reuse_prefixes && admission.score.is_none();
        let rows = self.rows.iter().enumerate().filter_map(|(row, state)| {
            let State::Free { kept } = state else {
                return None;
            };
            let reused = match reuse {
                true => self.common(kept, admission.prompt),
                false => 0,
            };
            Some((row, reused, kept.len()))
        });
        // Of rows that have equally much of it, the one that has least of anything else.
        let best = rows.min_by_key(|&(row, reused, kept)| {
            let busy = arriving[row / self.rows_on_device];
            (
                std::cmp::Reverse(reused),
                busy,
                kept * usize::from(reuse),
                row,
            )
        });
        best.map(|(row, reused, _)| (row, reused))
    }

    /// How many tokens of a prompt's beginning a row still has that has held `kept`. The prompt's
    /// last token runs in any case: the next one comes from it.
    fn common(&self, kept: &[u32], prompt: &[u32]) -> usize {
        let common = kept.iter().zip(prompt).take_while(|(old, new)| old == new);
        let common = common.count().min(prompt.len() - 1);
        // In layers with a window the latest tokens take the place of those before them.
        let layers = self.engine.spec().gemma.spec().layers.iter();
        let mut windows = layers.filter_map(|layer| layer.attention.window);
        match common == kept.len() || windows.all(|window| kept.len() <= window) {
            true => common,
            false => 0,
        }
    }

    /// Runs the next part of prompts that have not run to their last token: in each group of the
    /// data axis of the one that was admitted first. Nothing where there is none.
    ///
    /// # Errors
    /// A device that fails.
    pub fn prefill(&mut self) -> Result<Option<Prefilled>> {
        let parts = self.next_parts();
        if parts.iter().all(Option::is_none) {
            return Ok(None);
        }
        let prefilled = self.run_parts(&parts)?;
        for part in parts.into_iter().flatten() {
            if let State::Taken(taken) = &mut self.rows[part.row] {
                taken.length += part.tokens.len();
            }
        }
        self.engine.record(|times| times.prefill += prefilled.took);
        Ok(Some(prefilled))
    }

    /// Runs all prompts to their last tokens; the time that it took.
    ///
    /// # Errors
    /// A device that fails.
    pub fn prefill_all(&mut self) -> Result<Duration> {
        let mut took = Duration::ZERO;
        while let Some(prefilled) = self.prefill()? {
            took += prefilled.took;
        }
        Ok(took)
    }

    /// The part that each group runs next.
    fn next_parts(&self) -> Vec<Option<Part>> {
        let groups = 0..self.engine.spec().mesh.data;
        let next = groups.map(|group| {
            let arriving = self
                .taken()
                .filter(|(row, taken)| row / self.rows_on_device == group && taken.is_arriving());
            let (row, taken) = arriving.min_by_key(|(_, taken)| taken.number)?;
            let start = taken.length;
            let end = (taken.prompt.len() - 1).min(start + self.chunk);
            Some(Part {
                row,
                start,
                tokens: taken.prompt[start..end].to_vec(),
                targets: taken.prompt[start + 1..=end].to_vec(),
                scored: taken.scored,
            })
        });
        next.collect()
    }

    fn run_parts(&mut self, parts: &[Option<Part>]) -> Result<Prefilled> {
        let engine = self.engine;
        let lengths = parts.iter().flatten().map(|part| part.tokens.len());
        let chunk = lengths.max().unwrap_or(1).next_power_of_two();
        let chunk = chunk.max(SHORTEST_PART);
        let groups = parts.len();
        let pad = engine.spec().config.padding_id() as i32;
        let mut ids = vec![pad; groups * chunk];
        let mut targets = ids.clone();
        // A group without a prompt runs a part without tokens, and writes it where nobody sees it:
        // after what its rows may use.
        let mut starts = vec![(self.cache - chunk) as i32; groups];
        let mut rows = vec![0; groups];
        let mut last = vec![-1; groups];
        for (group, part) in parts.iter().enumerate() {
            let Some(part) = part else { continue };
            let copy = |to: &mut [i32], from: &[u32]| {
                for (to, &id) in to[group * chunk..].iter_mut().zip(from) {
                    *to = id as i32;
                }
            };
            copy(&mut ids, &part.tokens);
            copy(&mut targets, &part.targets);
            starts[group] = part.start as i32;
            rows[group] = (part.row % self.rows_on_device) as i32;
            last[group] = part.tokens.len() as i32 - 1;
        }
        let devices = engine.devices();
        let dims = [1, chunk as i64];
        let inputs = || -> Result<_> {
            Ok(AdmitInputs {
                input_ids: devices.upload_rows_s32(&ids, &dims)?,
                row: devices.upload_rows_s32(&rows, &[1])?,
                start: devices.upload_rows_s32(&starts, &[1])?,
                last: devices.upload_rows_s32(&last, &[1])?,
            })
        };
        let no_choice = ChoiceInputs::default;
        let mut scores = Vec::new();
        let took = match parts.iter().flatten().any(|part| part.scored.is_some()) {
            false => {
                let ready = engine.ready(self.admit_program(chunk))?;
                let began = Instant::now();
                let inputs = inputs()?;
                let outcome = engine.call(&ready, inputs.as_ref(), no_choice(), &self.caches)?;
                self.caches = outcome.caches;
                devices.read_s32(&outcome.results.tokens)?;
                began.elapsed()
            }
            true => {
                let program = self.admit_scored_program(chunk);
                let ready = engine.ready(program)?;
                let began = Instant::now();
                let AdmitInputs {
                    input_ids,
                    row,
                    start,
                    last,
                } = inputs()?;
                let inputs = AdmitScoredInputs {
                    input_ids,
                    row,
                    start,
                    last,
                    targets: devices.upload_rows_s32(&targets, &dims)?,
                };
                let outcome = engine.call(&ready, inputs.as_ref(), no_choice(), &self.caches)?;
                self.caches = outcome.caches;
                let results = outcome.results;
                let f32s = |from| devices.read(from, |buffer| Ok(buffer.to_vec_f32()?));
                let logprobs = f32s(&results.logprob)?;
                let top_ids = devices.read_s32(&results.top_ids)?;
                let top_logprobs = f32s(&results.top_logprobs)?;
                let expected = groups * chunk;
                if logprobs.len() != expected || top_ids.len() != expected * program.top {
                    return Err(Error::UnexpectedResult {
                        program: "admit_scored",
                        expected: format!("{expected} scores"),
                        found: logprobs.len().to_string(),
                    });
                }
                for (group, part) in parts.iter().enumerate() {
                    let Some(part) = part else { continue };
                    let Some(top) = part.scored else { continue };
                    let of_token = |(place, &token_id): (usize, &u32)| {
                        let place = group * chunk + place;
                        let entries = place * program.top..place * program.top + top;
                        let ids = top_ids[entries.clone()].iter().map(|&id| id as u32);
                        TokenLogprob {
                            token_id,
                            logprob: logprobs[place],
                            top: ids.zip(top_logprobs[entries].iter().copied()).collect(),
                        }
                    };
                    let of_part = part.targets.iter().enumerate().map(of_token);
                    scores.push((RowId(part.row), of_part.collect()));
                }
                began.elapsed()
            }
        };
        Ok(Prefilled {
            tokens: parts.iter().flatten().map(|part| part.tokens.len()).sum(),
            scores,
            took,
        })
    }

    pub(super) fn admit_program(&self, chunk: usize) -> Admit {
        Admit {
            chunk,
            rows: self.rows_on_device,
            cache: self.cache,
        }
    }

    pub(super) fn admit_scored_program(&self, chunk: usize) -> AdmitScored {
        AdmitScored {
            admit: self.admit_program(chunk),
            top: MAX_LOGPROBS.min(self.engine.spec().gemma.spec().vocabulary.size()),
        }
    }
}
