//! What can be asked of the choice of tokens.

use std::collections::BTreeMap;

use super::{Error, Result, StopStrings};

/// The most entries that [`SamplingOptions::logprobs`] may ask for.
pub const MAX_LOGPROBS: usize = 20;
/// The bound of penalties that are added to logits, as OpenAI's interface has it.
const MAX_PENALTY: f32 = 2.0;

/// How tokens are chosen. The defaults are Transformers': greedy, and 50 tokens to sample from once
/// `do_sample` is set.
///
/// ```
/// use gemma_xla::sampling::SamplingOptions;
///
/// let mut options = SamplingOptions::default();
/// options.do_sample = true;
/// options.temperature = 0.7;
/// options.validate(256_000, 20)?;
/// options.top_p = 0.0;
/// let error = options.validate(256_000, 20).unwrap_err();
/// assert_eq!(error.to_string(), "top_p: 0 is not above 0 and at most 1");
/// # Ok::<(), gemma_xla::sampling::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplingOptions {
    /// Whether tokens are drawn at random; else the most likely one is taken.
    pub do_sample: bool,
    /// What logits are divided by before a draw, 0 or above. 0 is greedy.
    pub temperature: f32,
    /// How many of the most likely tokens are drawn from; 0 is all.
    pub top_k: usize,
    /// The probability that the most likely tokens must reach together, above 0 and at most 1; the
    /// others are left out.
    pub top_p: f32,
    /// The least probability of a token, as a share of the most likely one's, from 0 to 1.
    pub min_p: f32,
    /// The seed of `jax.random.PRNGKey`; see [`Key::from_seed`](super::Key::from_seed).
    pub seed: u64,
    /// What the logits of tokens are divided by (multiplied, where they are negative) that the
    /// prompt or the reply has already; above 0, 1 is none.
    pub repetition_penalty: f32,
    /// What is taken from the logits of tokens that the reply has already; from -2 to 2.
    pub presence_penalty: f32,
    /// What is taken from a token's logit for each time that the reply has it; from -2 to 2.
    pub frequency_penalty: f32,
    /// What is added to the logits of single tokens. Minus infinity forbids one.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Sequences of token ids that do not occur in a reply.
    pub bad_words: Vec<Vec<u32>>,
    /// How many new tokens come before an end-of-sequence token may.
    pub min_new_tokens: usize,
    /// Tokens that do not occur in a reply.
    pub suppress_tokens: Vec<u32>,
    /// Tokens that are not a reply's first.
    pub begin_suppress_tokens: Vec<u32>,
    /// The first token of the reply to a prompt of one token.
    pub forced_bos_token_id: Option<u32>,
    /// The last token of a reply that has as many as it may.
    pub forced_eos_token_id: Option<u32>,
    /// The length of prompt and reply that is not enough for an end-of-sequence token, as Flax
    /// counts it: of the longest prompt of a batch. 0 is none.
    pub min_length: usize,
    /// The length of the sequences of which none occurs twice in prompt and reply; 0 is none.
    pub no_repeat_ngram_size: usize,
    /// Texts that end a reply; they are cut from it.
    pub stop: Vec<String>,
    /// How many of the most likely tokens are reported with each new one, with the logarithms of
    /// their probabilities; the new token's own is reported beside them. None reports nothing. At
    /// most [`MAX_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// How many replies each prompt has, at least 1.
    pub num_return_sequences: usize,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            bad_words: Vec::new(),
            min_new_tokens: 0,
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            forced_bos_token_id: None,
            forced_eos_token_id: None,
            min_length: 0,
            no_repeat_ngram_size: 0,
            stop: Vec::new(),
            logprobs: None,
            num_return_sequences: 1,
        }
    }
}

impl SamplingOptions {
    /// Whether the most likely token is always taken, so that neither seed nor filters have a part
    /// in it.
    pub fn is_greedy(&self) -> bool {
        !self.do_sample || self.temperature == 0.0
    }

    /// Checks every value, for a vocabulary of `vocab_size` tokens and replies of at most
    /// `max_new_tokens`.
    ///
    /// # Errors
    /// The first argument that cannot be used.
    pub fn validate(&self, vocab_size: usize, max_new_tokens: usize) -> Result<()> {
        let Self {
            temperature,
            top_p,
            min_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..
        } = *self;
        let penalties = -MAX_PENALTY..=MAX_PENALTY;
        // A value that is not a number fails every comparison.
        for (argument, value, is_usable, expected) in [
            ("temperature", temperature, temperature >= 0.0, "0 or above"),
            (
                "top_p",
                top_p,
                top_p > 0.0 && top_p <= 1.0,
                "above 0 and at most 1",
            ),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                repetition,
                repetition > 0.0,
                "above 0",
            ),
            (
                "presence_penalty",
                presence,
                penalties.contains(&presence),
                "from -2 to 2",
            ),
            (
                "frequency_penalty",
                frequency,
                penalties.contains(&frequency),
                "from -2 to 2",
            ),
        ] {
            if !is_usable || value.is_infinite() {
                return Err(Error::new(argument, format!("{value} is not {expected}")));
            }
        }
        self.validate_tokens(vocab_size)?;
        StopStrings::new(&self.stop)?;
        if self.min_new_tokens > max_new_tokens {
            let problem = format!(
                "{} is above the {max_new_tokens} new tokens that there can be",
                self.min_new_tokens
            );
            return Err(Error::new("min_new_tokens", problem));
        }
        let most = MAX_LOGPROBS.min(vocab_size);
        if let Some(asked) = self.logprobs.filter(|&asked| asked > most) {
            return Err(Error::new("logprobs", format!("{asked} is above {most}")));
        }
        match self.num_return_sequences {
            0 => Err(Error::new("num_return_sequences", "0 is not at least 1")),
            2.. if self.is_greedy() => Err(Error::new(
                "num_return_sequences",
                format!(
                    "{} replies to a prompt would all be the same without do_sample",
                    self.num_return_sequences
                ),
            )),
            _ => Ok(()),
        }?;
        Ok(())
    }

    fn validate_tokens(&self, vocab_size: usize) -> Result<()> {
        let outside = |argument, id| {
            let problem = format!("token id {id} is outside of the vocabulary of {vocab_size}");
            Error::new(argument, problem)
        };
        for (&id, &bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                return Err(outside("logit_bias", id));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                let problem = format!("{bias} for token id {id} is not a finite number");
                return Err(Error::new("logit_bias", problem));
            }
        }
        let forced = |id: &Option<u32>| id.iter().copied().collect();
        for (argument, ids) in [
            ("suppress_tokens", self.suppress_tokens.clone()),
            ("begin_suppress_tokens", self.begin_suppress_tokens.clone()),
            ("forced_bos_token_id", forced(&self.forced_bos_token_id)),
            ("forced_eos_token_id", forced(&self.forced_eos_token_id)),
        ] {
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(outside(argument, id));
            }
        }
        for (index, word) in self.bad_words.iter().enumerate() {
            if word.is_empty() {
                return Err(Error::new("bad_words", format!("entry {index} is empty")));
            }
            if let Some(&id) = word.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(outside("bad_words", id));
            }
        }
        Ok(())
    }
}

/// A seed from its digits.
///
/// # Errors
/// Text that is not a whole number from 0 to 2⁶⁴ − 1.
pub fn parse_seed(text: &str) -> Result<u64> {
    let problem = |why| Error::new("seed", format!("{text:?} {why}"));
    text.parse().map_err(|_| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => problem("does not fit in 64 bits"),
            false => problem("is not a whole number of 0 or above"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut SamplingOptions)) -> String {
        let mut options = SamplingOptions::default();
        change(&mut options);
        options.validate(100, 20).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_transformers_and_greedy() {
        let options = SamplingOptions::default();
        assert!(options.validate(100, 1).is_ok());
        assert!(options.is_greedy());
        assert_eq!(
            (options.temperature, options.top_k, options.top_p),
            (1.0, 50, 1.0)
        );
        let mut sampled = SamplingOptions {
            do_sample: true,
            ..options
        };
        assert!(!sampled.is_greedy());
        sampled.temperature = 0.0;
        assert!(sampled.validate(100, 1).is_ok() && sampled.is_greedy());
    }

    #[test]
    fn values_at_the_bounds_are_taken() {
        let options = SamplingOptions {
            top_p: 1.0,
            min_p: 1.0,
            top_k: usize::MAX,
            seed: u64::MAX,
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            repetition_penalty: f32::MIN_POSITIVE,
            logit_bias: [(99, f32::NEG_INFINITY)].into(),
            bad_words: vec![vec![0, 99]],
            min_new_tokens: 20,
            stop: vec!["\n".to_owned()],
            logprobs: Some(MAX_LOGPROBS),
            ..Default::default()
        };
        assert_eq!(options.validate(100, 20), Ok(()));
    }

    #[test]
    fn each_bad_value_is_named_on_one_line() {
        assert_eq!(
            problem(|o| o.temperature = -0.5),
            "temperature: -0.5 is not 0 or above"
        );
        assert_eq!(
            problem(|o| o.temperature = f32::NAN),
            "temperature: NaN is not 0 or above"
        );
        assert_eq!(
            problem(|o| o.temperature = f32::INFINITY),
            "temperature: inf is not 0 or above"
        );
        assert_eq!(
            problem(|o| o.top_p = 0.0),
            "top_p: 0 is not above 0 and at most 1"
        );
        assert_eq!(
            problem(|o| o.top_p = 1.5),
            "top_p: 1.5 is not above 0 and at most 1"
        );
        assert_eq!(problem(|o| o.min_p = 1.1), "min_p: 1.1 is not from 0 to 1");
        assert_eq!(
            problem(|o| o.repetition_penalty = 0.0),
            "repetition_penalty: 0 is not above 0"
        );
        assert_eq!(
            problem(|o| o.presence_penalty = 2.5),
            "presence_penalty: 2.5 is not from -2 to 2"
        );
        assert_eq!(
            problem(|o| o.frequency_penalty = f32::NAN),
            "frequency_penalty: NaN is not from -2 to 2"
        );
        let bias = |id, bias| problem(|o| o.logit_bias = [(id, bias)].into());
        assert_eq!(
            bias(100, 1.0),
            "logit_bias: token id 100 is outside of the vocabulary of 100"
        );
        assert_eq!(
            bias(7, f32::NAN),
            "logit_bias: NaN for token id 7 is not a finite number"
        );
        let words = |word| problem(|o| o.bad_words = vec![vec![1], word]);
        assert_eq!(words(vec![]), "bad_words: entry 1 is empty");
        assert_eq!(
            words(vec![100]),
            "bad_words: token id 100 is outside of the vocabulary of 100"
        );
        assert_eq!(
            problem(|o| o.min_new_tokens = 21),
            "min_new_tokens: 21 is above the 20 new tokens that there can be"
        );
        assert_eq!(
            problem(|o| o.stop = vec![String::new()]),
            "stop: text 0 is empty"
        );
        assert_eq!(
            problem(|o| o.logprobs = Some(21)),
            "logprobs: 21 is above 20"
        );
        assert_eq!(
            problem(|o| o.num_return_sequences = 0),
            "num_return_sequences: 0 is not at least 1"
        );
    }

    #[test]
    fn seeds_have_64_bits() {
        assert_eq!(parse_seed("0"), Ok(0));
        assert_eq!(parse_seed("18446744073709551615"), Ok(u64::MAX));
        let message = |text| parse_seed(text).unwrap_err().to_string();
        assert_eq!(
            message("18446744073709551616"),
            "seed: \"18446744073709551616\" does not fit in 64 bits"
        );
        for text in ["", "-1", "1.5", "x", "+"] {
            assert!(message(text).ends_with("is not a whole number of 0 or above"));
        }
    }
}
