//! How likely given tokens are.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::batch::or_break;
use super::buckets::{cache_bucket, prompt_bucket, prompt_chunk};
use super::core::{DeviceCaches, Engine};
use super::error::{Error, Result};
use crate::model::ChoiceInputs;
use crate::model::programs::{Score as Program, ScoreInputs};

/// Batches of texts that are looked at together, so that those of like length run together.
const LOOKAHEAD: usize = 16;

/// A text whose end is scored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The tokens before, at least one.
    pub context: Vec<u32>,
    /// The tokens that are scored, at least one.
    pub continuation: Vec<u32>,
}

/// How likely a continuation is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The natural logarithm of each token's probability after all that comes before it.
    pub token_logprobs: Vec<f32>,
    /// Whether each token is the most likely one.
    pub is_greedy: bool,
}

impl Score {
    /// The logarithm of the continuation's probability.
    pub fn logprob(&self) -> f64 {
        self.token_logprobs.iter().map(|&x| f64::from(x)).sum()
    }
}

/// How likely a whole text is, but for its first token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextScore {
    /// Tokens that were scored.
    pub tokens: usize,
    /// The sum of the natural logarithms of their probabilities.
    pub logprob: f64,
}

impl TextScore {
    /// The exponential of the mean negative logarithm.
    pub fn perplexity(&self) -> f64 {
        (-self.logprob / self.tokens as f64).exp()
    }
}

/// A part of a long text, to be scored after what stands before it in the same window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first token's place in the text.
    pub begin: usize,
    /// Its tokens.
    pub length: usize,
    /// How many of the last ones are scored.
    pub scored: usize,
}

impl Window {
    fn request(&self, text: &[u32]) -> ScoreRequest {
        let end = self.begin + self.length;
        let from = end - self.scored;
        ScoreRequest {
            context: text[self.begin..from].to_vec(),
            continuation: text[from..end].to_vec(),
        }
    }
}

/// The windows of `length` tokens, every `stride` tokens, that score each token of a text of
/// `tokens` once, but for the first, as Transformers' guide to perplexity has it.
///
/// # Errors
/// A length below 2, and a stride of 0 or above the length.
pub fn windows(tokens: usize, length: usize, stride: usize) -> Result<Vec<Window>> {
    let argument = |argument, problem| Err(Error::Argument { argument, problem });
    if length < 2 {
        return argument("max_length", format!("{length} is not at least 2"));
    }
    if stride == 0 || stride > length {
        return argument(
            "stride",
            format!("{stride} is not between 1 and the window of {length}"),
        );
    }
    let mut windows = Vec::new();
    let mut scored_to = 0;
    for begin in (0..tokens).step_by(stride) {
        let end = (begin + length).min(tokens);
        // Nothing comes before the first token of a window, so nothing is said of it.
        let scored = (end - scored_to).min(end - begin - 1);
        if scored > 0 {
            windows.push(Window {
                begin,
                length: end - begin,
                scored,
            });
        }
        scored_to = end;
        if end == tokens {
            break;
        }
    }
    Ok(windows)
}

impl Engine {
    /// Scores each request, `batch_size` at a time; results are in their order.
    ///
    /// ```
    /// use gemma_xla::engine::ScoreRequest;
    /// use gemma_xla::{LoadOptions, Model};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gemma-small");
    /// let model = Model::open(folder)?.load(&LoadOptions::default())?;
    /// let request = ScoreRequest {
    ///     context: vec![2, 638],
    ///     continuation: vec![405, 415],
    /// };
    /// let scores = model.engine().score(&[request], 8)?;
    /// assert!(scores[0].logprob() < 0.0 && scores[0].is_greedy);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`score_with`](Self::score_with).
    pub fn score(&self, requests: &[ScoreRequest], batch_size: usize) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(requests.len());
        let mut source = requests.iter().cloned();
        let _: ControlFlow<()> = self.score_with(&mut source, batch_size, |_, score| {
            scores.push(score);
            ControlFlow::Continue(())
        })?;
        Ok(scores)
    }

    /// Scores a text in [`windows`] of `length` tokens, every `stride` tokens, `batch_size` at a
    /// time.
    ///
    /// ```
    /// use gemma_xla::{LoadOptions, Model};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gemma-small");
    /// let model = Model::open(folder)?.load(&LoadOptions::default())?;
    /// let text = model.tokenizer().unwrap().encode("She was not to be sure of her own.")?;
    /// let score = model.engine().score_text(&text, 64, 32, 8)?;
    /// assert!(score.tokens == text.len() - 1 && score.perplexity() > 1.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`windows`] and [`score_with`](Self::score_with); a text without a second token has none
    /// to score.
    pub fn score_text(
        &self,
        text: &[u32],
        length: usize,
        stride: usize,
        batch_size: usize,
    ) -> Result<TextScore> {
        if text.len() < 2 {
            return Err(Error::EmptyContinuation { index: 0 });
        }
        let windows = windows(text.len(), length, stride)?;
        let mut requests = windows.iter().map(|window| window.request(text));
        let (mut tokens, mut logprob) = (0, 0.0);
        let _: ControlFlow<()> = self.score_with(&mut requests, batch_size, |_, score| {
            tokens += score.token_logprobs.len();
            logprob += score.logprob();
            ControlFlow::Continue(())
        })?;
        Ok(TextScore { tokens, logprob })
    }

    /// Scores requests as they come and tells `tell` of each, with its place, in their order. Some
    /// batches are read ahead. Where `tell` breaks, scoring stops and gives what it broke with.
    ///
    /// # Errors
    /// A batch size of 0, a request that [cannot be scored](Self::check_score), a device that fails.
    pub fn score_with<B>(
        &self,
        requests: &mut dyn Iterator<Item = ScoreRequest>,
        batch_size: usize,
        mut tell: impl FnMut(usize, Score) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>> {
        if batch_size == 0 {
            return Err(Error::Argument {
                argument: "batch_size",
                problem: "0 is not at least 1".to_owned(),
            });
        }
        let mut scorer = Scorer {
            engine: self,
            batch: batch_size.div_ceil(self.spec().mesh.data),
            caches: None,
        };
        let mut done = 0;
        loop {
            let group: Vec<ScoreRequest> = requests.take(batch_size * LOOKAHEAD).collect();
            if group.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            for (place, request) in group.iter().enumerate() {
                self.check_score(done + place, request)?;
            }
            let mut order: Vec<usize> = (0..group.len()).collect();
            order.sort_by_key(|&place| group[place].tokens());
            let mut scores: Vec<Option<Score>> = vec![None; group.len()];
            for places in order.chunks(scorer.batch * self.spec().mesh.data) {
                let batch: Vec<&ScoreRequest> = places.iter().map(|&at| &group[at]).collect();
                let found = scorer.score(&batch)?;
                for (&place, score) in places.iter().zip(found) {
                    scores[place] = Some(score);
                }
            }
            for score in scores.into_iter().flatten() {
                or_break!(tell(done, score));
                done += 1;
            }
        }
    }

    /// Checks that the request at `index` can be scored.
    ///
    /// # Errors
    /// No tokens before or in the continuation, more tokens than the model has positions for, an id
    /// outside of the vocabulary.
    pub fn check_score(&self, index: usize, request: &ScoreRequest) -> Result<()> {
        if request.continuation.is_empty() {
            return Err(Error::EmptyContinuation { index });
        }
        if request.context.is_empty() {
            return Err(Error::EmptyPrompt { index });
        }
        // The last token is only looked for, and has no position.
        let limit = self.spec().config.max_position_embeddings();
        let tokens = request.tokens();
        if tokens - 1 > limit {
            return Err(Error::PromptTooLong {
                index,
                tokens,
                limit,
            });
        }
        let whole = [request.context.as_slice(), &request.continuation].concat();
        self.check_prompt(index, &whole, usize::MAX)
    }
}

impl ScoreRequest {
    fn tokens(&self) -> usize {
        self.context.len() + self.continuation.len()
    }

    fn token(&self, place: usize) -> Option<u32> {
        let rest = place.checked_sub(self.context.len());
        match rest {
            None => self.context.get(place).copied(),
            Some(rest) => self.continuation.get(rest).copied(),
        }
    }
}

/// Runs batches, with the caches of the last one.
struct Scorer<'a> {
    engine: &'a Engine,
    /// Texts of a device.
    batch: usize,
    /// Caches of this length. What an earlier batch left in them is never seen.
    caches: Option<(usize, DeviceCaches)>,
}

impl Scorer<'_> {
    fn score(&mut self, requests: &[&ScoreRequest]) -> Result<Vec<Score>> {
        let engine = self.engine;
        let groups = engine.spec().mesh.data;
        let longest = requests.iter().map(|request| request.tokens() - 1).max();
        let longest = longest.unwrap_or(1).max(1);
        let chunk = prompt_bucket(longest).min(prompt_chunk(self.batch));
        let parts = longest.div_ceil(chunk);
        let cache = cache_bucket(parts * chunk);
        let program = Program {
            batch: self.batch,
            chunk,
            cache,
        };
        let ready = engine.ready(program)?;
        let mut caches = match self.caches.take() {
            Some((length, caches)) if length == cache => caches,
            _ => engine.empty_caches(self.batch, cache)?,
        };
        let began = Instant::now();
        let devices = engine.devices();
        let pad = engine.spec().config.padding_id() as i32;
        let rows = self.batch * groups;
        let dims = [self.batch as i64, chunk as i64];
        let mut found: Vec<VecDeque<(f32, bool)>> = vec![VecDeque::new(); requests.len()];
        for start in (0..parts * chunk).step_by(chunk) {
            let columns = |shift: usize| {
                let places = (0..rows * chunk).map(|at| {
                    let request = requests.get(at / chunk)?;
                    request.token(start + at % chunk + shift)
                });
                places
                    .map(|id| id.map_or(pad, |id| id as i32))
                    .collect::<Vec<i32>>()
            };
            let targets = columns(1);
            let inputs = ScoreInputs {
                input_ids: devices.upload_rows_s32(&columns(0), &dims)?,
                targets: devices.upload_rows_s32(&targets, &dims)?,
                start: devices.upload_scalar(start as i32)?,
            };
            let outcome = engine.call(&ready, inputs.as_ref(), ChoiceInputs::default(), &caches)?;
            caches = outcome.caches;
            let logprobs = devices.read(&outcome.results.logprob, |x| Ok(x.to_vec_f32()?))?;
            let best = devices.read_s32(&outcome.results.best)?;
            if logprobs.len() != rows * chunk || best.len() != rows * chunk {
                return Err(Error::UnexpectedResult {
                    program: "score",
                    expected: format!("{} scores", rows * chunk),
                    found: logprobs.len().to_string(),
                });
            }
            for (row, request) in requests.iter().enumerate() {
                for column in 0..chunk {
                    let target = start + column + 1;
                    if (request.context.len()..request.tokens()).contains(&target) {
                        let at = row * chunk + column;
                        found[row].push_back((logprobs[at], best[at] == targets[at]));
                    }
                }
            }
        }
        self.caches = Some((cache, caches));
        let took: Duration = began.elapsed();
        engine.record(|times| times.prefill += took);
        let scores = found.into_iter().map(|tokens| Score {
            is_greedy: tokens.iter().all(|&(_, is_best)| is_best),
            token_logprobs: tokens.into_iter().map(|(logprob, _)| logprob).collect(),
        });
        Ok(scores.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_every_token_but_the_first_once() {
        for (tokens, length, stride) in [(677, 512, 256), (677, 128, 64), (150, 100, 1), (5, 9, 9)]
        {
            let windows = windows(tokens, length, stride).expect("they are valid");
            let mut scored = vec![0; tokens];
            for window in &windows {
                let end = window.begin + window.length;
                assert!(window.length <= length && end <= tokens);
                assert!(window.scored < window.length);
                scored[end - window.scored..end]
                    .iter_mut()
                    .for_each(|n| *n += 1);
            }
            assert_eq!(scored[0], 0);
            assert!(
                scored[1..].iter().all(|&n| n == 1),
                "{tokens} {length} {stride}"
            );
        }
    }

    #[test]
    fn a_text_without_a_second_token_has_nothing_to_score() {
        assert_eq!(windows(1, 4, 2).expect("valid"), []);
        assert_eq!(windows(0, 4, 2).expect("valid"), []);
    }

    #[test]
    fn sizes_that_score_nothing_are_refused() {
        for (length, stride) in [(1, 1), (4, 0), (4, 5)] {
            assert!(matches!(
                windows(9, length, stride),
                Err(Error::Argument { .. })
            ));
        }
    }
}
