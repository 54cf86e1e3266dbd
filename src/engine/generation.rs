//! What generation is asked for, what it tells while it runs, and what it gives.

use std::time::Duration;

/// What to generate.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// New tokens a prompt at most, at least 1; by default 20.
    pub max_new_tokens: usize,
    /// Rows that are run together, at least 1; by default 8.
    pub batch_size: usize,
    /// Whether [`Event::Tokens`] are wanted as they come.
    pub stream: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 20,
            batch_size: 8,
            stream: false,
        }
    }
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// New tokens of a row, where they are streamed.
    Tokens {
        /// The prompt's place in the input, from 0.
        index: usize,
        /// The tokens.
        new: &'a [u32],
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
}

impl Row {
    pub fn new(limit: usize) -> Self {
        Self {
            token_ids: Vec::new(),
            limit,
            finished: None,
        }
    }

    /// Takes new tokens up to the row's end; gives those that it took.
    pub fn accept(&mut self, tokens: &[i32], eos: &[u32]) -> &[u32] {
        let before = self.token_ids.len();
        for &token in tokens {
            if self.finished.is_some() {
                break;
            }
            let token = token as u32;
            self.token_ids.push(token);
            if eos.contains(&token) {
                self.finished = Some(FinishReason::Eos);
            } else if self.token_ids.len() == self.limit {
                self.finished = Some(FinishReason::Length);
            }
        }
        &self.token_ids[before..]
    }

    /// New tokens that may still come.
    pub fn left(&self) -> usize {
        match self.finished {
            Some(_) => 0,
            None => self.limit - self.token_ids.len(),
        }
    }
}
