//! What generation is asked for, what it tells while it runs, and what it gives.

use std::cell::Cell;
use std::time::Duration;

use crate::config::GenerationConfig;
use crate::sampling::{Key, SamplingOptions, StepKeys};

/// What to generate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// New tokens a prompt at most, at least 1; by default 20.
    pub max_new_tokens: usize,
    /// Tokens of prompt and reply at most, as Transformers' `max_length`, where there is such a
    /// bound: of the longest prompt of a batch.
    pub max_length: Option<usize>,
    /// Rows that are run together, at least 1; by default 8.
    pub batch_size: usize,
    /// Whether [`Event::Tokens`] are wanted as they come.
    pub stream: bool,
    /// Whether [`Event::Tokens`] are wanted, several at a time where that is faster.
    pub watch: bool,
    /// How tokens are chosen. `sampling.stop` is for whoever decodes the tokens: see [`Stop`].
    pub sampling: SamplingOptions,
}

impl GenerateOptions {
    /// New tokens that may follow a prompt of `tokens` in `positions`, of a batch whose longest has
    /// `width`.
    pub(super) fn limit(&self, tokens: usize, width: usize, positions: usize) -> usize {
        let by_length = self.max_length.map(|length| length.saturating_sub(width));
        let limit = self.max_new_tokens.min(positions - tokens);
        limit.min(by_length.unwrap_or(limit).max(1))
    }
}

/// The defaults that a model comes with.
impl From<&GenerationConfig> for GenerateOptions {
    fn from(config: &GenerationConfig) -> Self {
        // Without `max_new_tokens`, `max_length` alone bounds the reply.
        let max_length = match config.max_new_tokens {
            Some(_) => None,
            None => config.max_length,
        };
        Self {
            max_new_tokens: config.max_new_tokens.or(max_length).unwrap_or(20),
            max_length,
            sampling: config.sampling.clone(),
            ..Self::default()
        }
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 20,
            max_length: None,
            batch_size: 8,
            stream: false,
            watch: false,
            sampling: SamplingOptions::default(),
        }
    }
}

/// A prompt among many that are read as they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its place in the input, from 0, which its random key depends on.
    pub index: usize,
    /// Its token ids.
    pub prompt: Vec<u32>,
    /// New tokens after it at most, where it may have fewer than the options say.
    pub new_tokens: Option<usize>,
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// It produced an end-of-sequence token.
    Eos,
    /// It reached the most new tokens allowed.
    Length,
    /// It was [stopped](Stop), such as by a stop text.
    Stop,
}

impl FinishReason {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Eos => "eos",
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
        }
    }
}

/// The logarithm of a token's probability, by the model's own logits: before a temperature, filters
/// and penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub token_id: u32,
    /// Its own.
    pub logprob: f32,
    /// The most likely tokens and theirs, the most likely first.
    pub top: Vec<(u32, f32)>,
}

/// Ends a reply where whoever gets its tokens says so.
#[derive(Debug, Default)]
pub struct Stop(Cell<Option<usize>>);

impl Stop {
    /// The reply ends with the first `count` of the tokens that were told.
    pub fn after(&self, count: usize) {
        self.0.set(Some(count));
    }

    pub(super) fn kept(&self) -> Option<usize> {
        self.0.get()
    }
}

/// What one prompt became.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The prompt's place in the input, from 0.
    pub index: usize,
    /// Which of the prompt's replies it is, from 0.
    pub sequence: usize,
    /// New tokens, the end-of-sequence token included, no padding.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Of each new token, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// What happens during [`Engine::generate`](super::Engine::generate).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Fewer new tokens than asked for can follow a prompt, since positions end.
    Shortened {
        /// The prompt's place in the input, from 0.
        index: usize,
        /// New tokens that fit.
        to: usize,
    },
    /// Prompts have run, from the prompts on the host to their first tokens on the host, in this
    /// time.
    Prefilled(Duration),
    /// A call of the decode loop has run, tokens to and from the host included.
    Decoded {
        /// Steps that it ran.
        steps: usize,
        /// The time that it took.
        took: Duration,
    },
    /// New tokens of a row, where they are streamed or watched.
    Tokens {
        /// The prompt's place in the input, from 0.
        index: usize,
        /// Which of the prompt's replies has them, from 0.
        sequence: usize,
        /// The tokens.
        new: &'a [u32],
        /// Ends the reply with one of them.
        stop: &'a Stop,
    },
    /// A row is finished; rows are told in the order of the prompts.
    Finished(Generation),
}

/// What a whole generation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerateSummary {
    /// New tokens over all finished rows.
    pub new_tokens: usize,
    /// Decode steps run.
    pub steps: usize,
}

/// A row that generates: its tokens so far and when it ends.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// New tokens.
    pub token_ids: Vec<u32>,
    /// New tokens that it may have.
    pub limit: usize,
    /// Why it has ended, once it has.
    pub finished: Option<FinishReason>,
    /// The random keys of its next tokens.
    pub keys: StepKeys,
    /// Where its random numbers begin among those of a key.
    pub counter: u64,
    /// Of each new token, where they are reported.
    pub logprobs: Vec<TokenLogprob>,
}

impl Row {
    pub fn new(limit: usize, key: Key, counter: u64) -> Self {
        Self {
            keys: key.steps(),
            counter,
            logprobs: Vec::new(),
            token_ids: Vec::new(),
            limit,
            finished: None,
        }
    }

    /// Takes new tokens up to the row's end; gives those that it took. `report` gives what is
    /// reported of each, where anything is.
    pub fn accept(
        &mut self,
        tokens: &[i32],
        eos: &[u32],
        report: impl Fn(usize, u32) -> Option<TokenLogprob>,
    ) -> &[u32] {
        let before = self.token_ids.len();
        for (step, &token) in tokens.iter().enumerate() {
            if self.finished.is_some() {
                break;
            }
            let token = token as u32;
            self.token_ids.push(token);
            self.logprobs.extend(report(step, token));
            // Each step draws with a key of its own.
            self.keys.next();
            if eos.contains(&token) {
                self.finished = Some(FinishReason::Eos);
            } else if self.token_ids.len() == self.limit {
                self.finished = Some(FinishReason::Length);
            }
        }
        &self.token_ids[before..]
    }

    /// Ends the row with the first `count` of its new tokens.
    pub fn stop(&mut self, count: usize) {
        self.token_ids.truncate(count);
        self.logprobs.truncate(count);
        self.finished = Some(FinishReason::Stop);
    }

    /// New tokens that may still come.
    pub fn left(&self) -> usize {
        match self.finished {
            Some(_) => 0,
            None => self.limit - self.token_ids.len(),
        }
    }
}
