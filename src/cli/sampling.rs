//! The options that say how tokens are chosen.

use anyhow::{Context, bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::terminal;
use crate::config::GenerationConfig;
use crate::sampling::{SamplingOptions, parse_seed};
use crate::tokenizer::Tokenizer;

/// How tokens are chosen. What is not given is the model's own default, then Transformers'.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Choice of tokens")]
pub struct SamplingArgs {
    /// Draw tokens at random [default: take the most likely one]
    #[arg(long)]
    do_sample: bool,
    /// Take the most likely token, whatever generation_config.json says
    #[arg(long, conflicts_with = "do_sample")]
    greedy: bool,
    /// What logits are divided by before a draw; 0 is greedy [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// How many of the most likely tokens are drawn from; 0 is all [default: 50]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// The probability that the most likely tokens must reach together [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// The least probability of a token, as a share of the most likely one's [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// The seed of the draws, as of jax.random.PRNGKey [default: 0]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<String>,
    /// What the logits of tokens are divided by that the prompt or the reply has [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// What is taken from the logits of tokens that the reply has [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// What is taken from a token's logit for each time that the reply has it [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// What is added to the logit of a token; -inf forbids it; may be given several times
    #[arg(long, value_name = "ID=B")]
    logit_bias: Vec<String>,
    /// A text that no reply has; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    bad_words: Vec<String>,
    /// A text that ends a reply and is cut from it; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// New tokens before which no end-of-sequence token comes [default: 0]
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<usize>,
}

/// Options of what is reported with each prompt.
#[derive(Args, Clone, Debug, Default)]
pub struct ReplyArgs {
    /// Replies to each prompt [default: 1]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536))]
    num_return_sequences: Option<usize>,
    /// Report each token's log-probability, and those of the N most likely ones (JSON lines)
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
}

impl ReplyArgs {
    /// Whether log-probabilities are reported.
    pub fn has_logprobs(&self) -> bool {
        self.logprobs.is_some()
    }

    /// Sets what the arguments say.
    pub fn apply(&self, options: &mut SamplingOptions) {
        if let Some(count) = self.num_return_sequences {
            options.num_return_sequences = count;
        }
        options.logprobs = self.logprobs;
    }
}

/// Names each key of generation_config.json that is not obeyed in a warning. `instead` names what
/// asks for the same as an argument of sampling; nothing where that was given.
pub(super) fn warn_of_ignored(
    defaults: &GenerationConfig,
    instead: impl Fn(&str) -> Option<String>,
) {
    for ignored in &defaults.ignored {
        match ignored.instead.map(&instead) {
            Some(None) => {}
            Some(Some(instead)) => {
                terminal::warn(format_args!("{ignored}; {instead} asks for the same"));
            }
            None => terminal::warn(ignored),
        }
    }
}

impl SamplingArgs {
    /// What the arguments say, with the model's defaults for what they leave open. Names each key
    /// of generation_config.json that is not obeyed in a warning.
    pub fn options(
        &self,
        defaults: &GenerationConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> anyhow::Result<SamplingOptions> {
        warn_of_ignored(defaults, |option| {
            (!self.has(option)).then(|| format!("--{}", option.replace('_', "-")))
        });
        let mut options = defaults.sampling.clone();
        options.do_sample = (options.do_sample || self.do_sample) && !self.greedy;
        let given = |to: &mut f32, value: Option<f32>| {
            if let Some(value) = value {
                *to = value;
            }
        };
        given(&mut options.temperature, self.temperature);
        given(&mut options.top_p, self.top_p);
        given(&mut options.min_p, self.min_p);
        given(&mut options.repetition_penalty, self.repetition_penalty);
        given(&mut options.presence_penalty, self.presence_penalty);
        given(&mut options.frequency_penalty, self.frequency_penalty);
        if let Some(top_k) = self.top_k {
            options.top_k = top_k;
        }
        if let Some(seed) = &self.seed {
            options.seed = parse_seed(seed)?;
        }
        if let Some(count) = self.min_new_tokens {
            options.min_new_tokens = count;
        }
        for text in &self.logit_bias {
            let (id, bias) = logit_bias(text)?;
            options.logit_bias.insert(id, bias);
        }
        for text in &self.bad_words {
            options.bad_words.extend(bad_word(text, tokenizer)?);
        }
        options.stop.clone_from(&self.stop);
        ensure!(
            options.stop.is_empty() || tokenizer.is_some(),
            "--stop: the model has no tokenizer"
        );
        if !options.do_sample {
            let unused = [
                ("--temperature", self.temperature.is_some_and(|t| t != 0.0)),
                ("--top-k", self.top_k.is_some()),
                ("--top-p", self.top_p.is_some()),
                ("--min-p", self.min_p.is_some()),
                ("--seed", self.seed.is_some()),
            ];
            let unused: Vec<&str> = unused
                .into_iter()
                .filter_map(|(name, given)| given.then_some(name))
                .collect();
            if !unused.is_empty() {
                terminal::warn(format_args!(
                    "without --do-sample the most likely token is taken: {} changes nothing",
                    unused.join(", ")
                ));
            }
        }
        Ok(options)
    }

    /// Whether the option that sets this field was given.
    fn has(&self, field: &str) -> bool {
        match field {
            "repetition_penalty" => self.repetition_penalty.is_some(),
            "min_new_tokens" => self.min_new_tokens.is_some(),
            "min_p" => self.min_p.is_some(),
            "bad_words" => !self.bad_words.is_empty(),
            _ => false,
        }
    }
}

/// A token and what is added to its logit.
fn logit_bias(text: &str) -> anyhow::Result<(u32, f32)> {
    let parsed = text.split_once('=').and_then(|(id, bias)| {
        let id = id.trim().parse().ok()?;
        Some((id, bias.trim().parse().ok()?))
    });
    parsed.with_context(|| format!("--logit-bias {text:?}: expected ID=B, such as 235=-5"))
}

/// The tokens of a text that is not to occur: at the beginning of a line, and after a space.
fn bad_word(text: &str, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<Vec<u32>>> {
    let Some(tokenizer) = tokenizer else {
        bail!("--bad-words: the model has no tokenizer");
    };
    ensure!(
        !text.trim().is_empty(),
        "--bad-words {text:?}: the text is empty"
    );
    let mut words = Vec::new();
    for form in [text.to_owned(), format!(" {}", text.trim_start())] {
        let ids = tokenizer.encode_rendered(&form)?;
        if !ids.is_empty() && !words.contains(&ids) {
            words.push(ids);
        }
    }
    Ok(words)
}
