//! A reply on its way to whoever asked: its tokens with their texts.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::scheduler::Update;
use crate::engine::{FinishReason, TokenLogprob};
use crate::sampling::StopStrings;
use crate::source::{Added, ReplyText};
use crate::tokenizer::{Error, Tokenizer};

/// Why a reply did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub message: String,
    /// The argument of the request that it is about.
    pub argument: Option<String>,
}

/// A token of a reply.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub id: u32,
    /// The text that it added.
    pub text: String,
    pub logprob: Option<TokenLogprob>,
}

/// What a reply has become since the last look.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    /// How likely tokens of the prompt were.
    pub scores: Vec<TokenLogprob>,
    pub tokens: Vec<Token>,
    /// Settled text, of these tokens and of what was held back before.
    pub text: String,
}

/// How a reply ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub reason: FinishReason,
    /// The token that a request named as an end, if one came.
    pub stop_token: Option<u32>,
    /// New tokens.
    pub tokens: usize,
    /// Tokens of the prompt that did not run again.
    pub reused: usize,
    /// How long it waited for a row.
    pub queued: Duration,
    /// How long it took since it was asked for.
    pub took: Duration,
}

/// A reply that comes.
pub(super) struct Reply<'a> {
    /// None after the end.
    updates: Option<Receiver<Update>>,
    text: Option<ReplyText<'a>>,
    stop_tokens: Vec<u32>,
    stop_token: Option<u32>,
    tokens: usize,
    reused: usize,
    queued: Duration,
    began: Instant,
    end: Option<End>,
}

impl<'a> Reply<'a> {
    /// The reply to `prompt`. Without a tokenizer it has no text.
    pub fn new(
        updates: Receiver<Update>,
        tokenizer: Option<&'a Tokenizer>,
        prompt: &[u32],
        stops: &StopStrings,
        stop_tokens: Vec<u32>,
    ) -> Self {
        Self {
            updates: Some(updates),
            text: tokenizer.map(|tokenizer| ReplyText::new(tokenizer, prompt, stops)),
            stop_tokens,
            stop_token: None,
            tokens: 0,
            reused: 0,
            queued: Duration::ZERO,
            began: Instant::now(),
            end: None,
        }
    }

    /// How it ended; none before it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// What comes next; none after the end.
    ///
    /// # Errors
    /// A reply that failed.
    pub async fn next(&mut self) -> Result<Option<Delta>, Failed> {
        let Some(updates) = &mut self.updates else {
            return Ok(None);
        };
        let update = updates.recv().await;
        let mut delta = Delta::default();
        match update {
            Some(Update::Scores(scores)) => delta.scores = scores,
            Some(Update::Tokens {
                ids,
                logprobs,
                reused,
                queued,
                finished,
            }) => {
                (self.reused, self.queued) = (reused, queued);
                let outcome = self.take(&mut delta, &ids, logprobs, finished);
                outcome.map_err(|problem| self.fail(problem.to_string(), None))?;
            }
            Some(Update::Failed { message, argument }) => return Err(self.fail(message, argument)),
            None => {
                let message = "the reply was dropped: it was read too slowly";
                return Err(self.fail(message.to_owned(), None));
            }
        }
        Ok(Some(delta))
    }

    fn take(
        &mut self,
        delta: &mut Delta,
        ids: &[u32],
        logprobs: Vec<TokenLogprob>,
        finished: Option<FinishReason>,
    ) -> Result<(), Error> {
        let mut logprobs = logprobs.into_iter();
        for &id in ids {
            self.tokens += 1;
            let mut added = Added::default();
            if self.stop_tokens.contains(&id) {
                self.stop_token = Some(id);
            } else if let Some(text) = &mut self.text {
                added = text.push(&[id])?;
            }
            delta.text.push_str(&added.text);
            delta.tokens.push(Token {
                id,
                text: added.text,
                logprob: logprobs.next(),
            });
            if added.stopped.is_some() {
                // The scheduler sees that nobody listens any more, and frees the row.
                self.finish(FinishReason::Stop);
                return Ok(());
            }
        }
        let Some(reason) = finished else {
            return Ok(());
        };
        let rest = match self.text.take() {
            None => Added::default(),
            Some(text) => text.finish()?,
        };
        delta.text.push_str(&rest.text);
        if let Some(last) = delta.tokens.last_mut() {
            last.text.push_str(&rest.text);
        }
        self.finish(match rest.stopped {
            Some(_) => FinishReason::Stop,
            None => reason,
        });
        Ok(())
    }

    fn finish(&mut self, reason: FinishReason) {
        self.updates = None;
        self.end = Some(End {
            reason,
            stop_token: self.stop_token,
            tokens: self.tokens,
            reused: self.reused,
            queued: self.queued,
            took: self.began.elapsed(),
        });
    }

    fn fail(&mut self, message: String, argument: Option<String>) -> Failed {
        self.updates = None;
        Failed { message, argument }
    }
}
