//! What a request wants, whatever the interface: prompts, how tokens are chosen, when replies end.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::mpsc::Receiver;

use super::super::grammar::Form;
use super::super::reply::Reply;
use super::super::scheduler::{Request, Update};
use super::fields::Fields;
use super::problem::Problem;
use super::{App, random};
use crate::sampling::{Key, SamplingOptions, StopStrings};

type Result<T> = std::result::Result<T, Problem>;

/// Stop texts of a request, at most.
const MOST_STOPS: usize = 64;

/// What a request wants.
pub(super) struct Wanted {
    pub prompts: Vec<Arc<[u32]>>,
    /// Replies to each prompt.
    pub n: usize,
    pub limit: Limit,
    pub choosing: Choosing,
    /// How many of the most likely tokens are reported in each place of a prompt.
    pub score: Option<usize>,
    pub stops: StopStrings,
    pub form: Option<Form>,
}

/// New tokens of a reply at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// So many, which must fit, by the field that says so.
    Exactly(usize, &'static str),
    /// So many, or what fits.
    UpTo(usize),
}

/// How tokens are chosen, and which of them end replies.
pub(super) struct Choosing {
    pub sampling: SamplingOptions,
    pub seed: Option<u64>,
    pub stop_tokens: Vec<u32>,
    /// Whether replies have as many tokens as they may.
    pub ignore_eos: bool,
}

impl Choosing {
    /// Takes the fields that OpenAI's interfaces share; what is absent is the model's default.
    pub fn take(fields: &mut Fields, defaults: &SamplingOptions) -> Result<Self> {
        let mut sampling = defaults.clone();
        sampling.do_sample = true;
        fields.reals([
            ("temperature", &mut sampling.temperature),
            ("top_p", &mut sampling.top_p),
            ("min_p", &mut sampling.min_p),
            ("repetition_penalty", &mut sampling.repetition_penalty),
            ("presence_penalty", &mut sampling.presence_penalty),
            ("frequency_penalty", &mut sampling.frequency_penalty),
        ])?;
        if let Some(top_k) = fields.top_k("top_k")? {
            sampling.top_k = top_k;
        }
        if let Some(least) = fields.size("min_tokens", 0)? {
            sampling.min_new_tokens = least;
        }
        if let Some(biases) = fields.object("logit_bias")? {
            sampling.logit_bias.extend(biases.biases()?);
        }
        Ok(Self {
            sampling,
            seed: fields.seed("seed")?,
            stop_tokens: fields.ids("stop_token_ids")?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        })
    }
}

impl Fields {
    /// A seed: a whole number of 64 bits, as two's complement where it is negative.
    pub fn seed(&mut self, name: &str) -> Result<Option<u64>> {
        match self.any(name) {
            None => Ok(None),
            Some(value) => {
                let seed = value.as_u64().or(value.as_i64().map(|seed| seed as u64));
                let problem = || self.problem(name, "expected a whole number of 64 bits");
                seed.map(Some).ok_or_else(problem)
            }
        }
    }

    /// Stop texts; an empty one is left out, as clients send it for none.
    pub fn stops(&mut self, name: &str) -> Result<StopStrings> {
        let mut texts = self.texts(name)?;
        texts.retain(|text| !text.is_empty());
        if texts.len() > MOST_STOPS {
            let problem = format!("{} texts are more than {MOST_STOPS}", texts.len());
            return Err(self.problem(name, problem));
        }
        StopStrings::new(&texts).map_err(|error| self.problem(name, error.problem))
    }

    fn biases(mut self) -> Result<Vec<(u32, f32)>> {
        let names: Vec<String> = self.names();
        let mut biases = Vec::with_capacity(names.len());
        for name in names {
            let id = name.parse().map_err(|_| {
                let name: String = name.chars().take(32).collect();
                self.problem(&name, "expected a token id")
            })?;
            if let Some(bias) = self.real(&name)? {
                biases.push((id, bias));
            }
        }
        Ok(biases)
    }
}

/// A reply that comes, with what is needed to read it.
pub(super) struct One {
    prompt: Arc<[u32]>,
    updates: Receiver<Update>,
    stops: StopStrings,
    stop_tokens: Vec<u32>,
}

impl One {
    /// Reads it.
    pub fn reply<'a>(self, app: &'a App) -> Reply<'a> {
        let tokenizer = app.ready().and_then(|ready| ready.model.tokenizer());
        Reply::new(
            self.updates,
            tokenizer,
            &self.prompt,
            &self.stops,
            self.stop_tokens,
        )
    }
}

impl App {
    /// Checks what a request wants and asks the scheduler for it: the replies, those of one prompt
    /// next to each other.
    pub(super) fn submit(&self, wanted: Wanted) -> Result<Vec<One>> {
        let Wanted {
            prompts,
            n,
            limit,
            choosing,
            score,
            stops,
            form,
        } = wanted;
        let ready = self.require_ready()?;
        let engine = ready.model.engine();
        let vocabulary = engine.spec().config.vocab_size();
        let count = prompts.len().saturating_mul(n);
        if count > self.scheduler.most_replies() {
            let most = self.scheduler.most_replies();
            let message = format!("{count} replies are more than the {most} that may wait");
            return Err(Problem::field("n", message));
        }
        let mut sampling = choosing.sampling;
        sampling.num_return_sequences = 1;
        let checked = sampling.validate(vocabulary, ready.max_length);
        checked.map_err(|error| Problem::field(field_of(error.argument), error.problem))?;
        let mut requests = Vec::with_capacity(count);
        for prompt in prompts {
            self.check_prompt(&prompt, vocabulary)?;
            let room = ready.max_length.saturating_sub(prompt.len());
            let max_tokens = match limit {
                Limit::Exactly(tokens, field) if tokens > room => {
                    let message = format!(
                        "the prompt has {} tokens, and {tokens} more do not fit in {}",
                        prompt.len(),
                        ready.max_length
                    );
                    let problem = Problem::field(field, message);
                    return Err(problem.with_code("context_length_exceeded"));
                }
                Limit::Exactly(tokens, _) | Limit::UpTo(tokens) => tokens.min(room),
            };
            let mut sampling = sampling.clone();
            if choosing.ignore_eos {
                sampling.min_new_tokens = max_tokens;
            } else if sampling.min_new_tokens > max_tokens {
                let message = format!("it is above the {max_tokens} tokens that may come");
                return Err(Problem::field("min_tokens", message));
            }
            for sequence in 0..n {
                let key = match choosing.seed {
                    Some(seed) if n == 1 => Key::from_seed(seed),
                    Some(seed) => Key::from_seed(seed).fold_in(sequence as u32),
                    None => Key([random() as u32, random() as u32]),
                };
                let constraint = form.as_ref().map(|form| ready.constraint(form));
                requests.push(Request {
                    prompt: prompt.clone(),
                    max_tokens: max_tokens.max(1),
                    sampling: sampling.clone(),
                    key,
                    score,
                    stop_tokens: choosing.stop_tokens.clone(),
                    constraint: constraint.transpose()?,
                });
            }
        }
        let prompts: Vec<_> = requests.iter().map(|one| one.prompt.clone()).collect();
        let updates = self.scheduler.submit(requests)?;
        let ones = updates.into_iter().zip(prompts);
        Ok(ones
            .map(|(updates, prompt)| One {
                prompt,
                updates,
                stops: stops.clone(),
                stop_tokens: choosing.stop_tokens.clone(),
            })
            .collect())
    }

    fn check_prompt(&self, prompt: &[u32], vocabulary: usize) -> Result<()> {
        let ready = self.require_ready()?;
        if prompt.is_empty() {
            return Err(Problem::field("prompt", "it has no tokens"));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocabulary) {
            let message = format!("token id {id} is outside of the vocabulary of {vocabulary}");
            return Err(Problem::field("prompt", message));
        }
        if prompt.len() >= ready.max_length {
            let message = format!(
                "it has {} tokens, and with a new one at most {} fit",
                prompt.len(),
                ready.max_length
            );
            let problem = Problem::field("prompt", message);
            return Err(problem.with_code("context_length_exceeded"));
        }
        Ok(())
    }

    /// The ids of a text, with the special tokens around it, or of one that a template rendered.
    pub(super) fn encode(&self, field: &str, text: &str, rendered: bool) -> Result<Vec<u32>> {
        let ready = self.require_ready()?;
        let Some(tokenizer) = ready.model.tokenizer() else {
            return Err(Problem::field(
                field,
                "the model has no tokenizer; give token ids",
            ));
        };
        let least = tokenizer.least_tokens(text.len());
        if least >= ready.max_length {
            let message = format!(
                "its {} bytes are at least {least} tokens, and at most {} fit",
                text.len(),
                ready.max_length
            );
            let problem = Problem::field(field, message);
            return Err(problem.with_code("context_length_exceeded"));
        }
        let ids = match rendered {
            true => tokenizer.encode_rendered(text),
            false => tokenizer.encode(text),
        };
        ids.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
    }
}

/// The field that sets an argument of sampling.
fn field_of(argument: &'static str) -> &'static str {
    match argument {
        "min_new_tokens" => "min_tokens",
        other => other,
    }
}
