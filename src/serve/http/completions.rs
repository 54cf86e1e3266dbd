//! OpenAI's `/v1/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::reply::{Delta, End, Token};
use super::fields::Fields;
use super::openai::{self, Answer, StreamOptions, finish_reason};
use super::problem::{Problem, Style};
use super::stream::{Events, Whole, stream, wait_for};
use super::wanted::{Choosing, Limit, Wanted};
use super::{App, answered};
use crate::engine::TokenLogprob;

/// Prompts of a request, at most.
const MOST_PROMPTS: usize = 4096;

/// What a request asks to be told of its replies.
struct Told {
    answer: Answer,
    /// How many of the most likely tokens are told.
    logprobs: Option<usize>,
    echo: bool,
    prompts: Vec<Arc<[u32]>>,
    n: usize,
}

/// Answers a request.
pub(super) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::OpenAi, async {
        let body = app.body(request).await?;
        answer(app, Fields::parse(&body)?).await
    })
    .await
}

/// Answers a request whose fields these are.
pub(super) async fn answer(app: Arc<App>, mut fields: Fields) -> Result<Response, Problem> {
    let ready = app.require_ready()?;
    let model = app.check_model(&mut fields)?;
    let prompts = prompts(&app, &mut fields)?;
    let mut choosing = Choosing::take(&mut fields, &ready.defaults)?;
    let n = openai::replies(&mut fields)?;
    let logprobs = fields.most_likely("logprobs")?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let limit = match fields.size("max_tokens", 0)? {
        Some(tokens) => Limit::Exactly(tokens, "max_tokens"),
        None => Limit::UpTo(16),
    };
    let stops = fields.stops("stop")?;
    let streaming = StreamOptions::take(&mut fields)?;
    let form = openai::response_format(&mut fields)?;
    fields.refuse("suffix", |value| value == "")?;
    fields.finish(openai::IGNORED)?;

    let nothing_new = limit == Limit::Exactly(0, "max_tokens");
    if nothing_new && !echo {
        return Err(Problem::field("max_tokens", "0 tokens are for echo alone"));
    }
    choosing.sampling.logprobs = logprobs;
    let prompt_tokens = prompts.iter().map(|prompt| prompt.len()).sum();
    let kinds = ["text_completion"; 2];
    let mut told = Told {
        answer: Answer::new("cmpl", kinds, model, streaming, prompt_tokens),
        logprobs,
        echo,
        prompts: prompts.clone(),
        n,
    };
    told.answer.nothing_new = nothing_new;
    let ones = app.submit(Wanted {
        prompts,
        n,
        limit,
        choosing,
        score: logprobs.filter(|_| echo),
        stops,
        form,
    })?;
    if streaming.wanted {
        return Ok(stream(app, ones, told));
    }
    let replies = wait_for(&app, ones).await?;
    let choice = |index, reply| told.choice(&app, index, reply);
    Ok(told.answer.whole(replies, choice))
}

/// The prompts: a text, texts, ids, or lists of ids.
fn prompts(app: &App, fields: &mut Fields) -> Result<Vec<Arc<[u32]>>, Problem> {
    let expected = || {
        Problem::field(
            "prompt",
            "expected a string, strings, token ids or lists of them",
        )
    };
    let of_text = |text: &str| app.encode("prompt", text, false);
    let ids = |list: &[Value]| -> Option<Vec<u32>> { list.iter().map(super::fields::id).collect() };
    let prompts = match fields.any("prompt") {
        None => return Err(Problem::field("prompt", "it is missing")),
        Some(Value::String(text)) => vec![of_text(&text)?],
        Some(Value::Array(list)) => match list.first() {
            None => return Err(Problem::field("prompt", "it is empty")),
            Some(Value::Number(_)) => vec![ids(&list).ok_or_else(expected)?],
            Some(_) if list.len() > MOST_PROMPTS => {
                let message = format!("{} prompts are more than {MOST_PROMPTS}", list.len());
                return Err(Problem::field("prompt", message));
            }
            Some(_) => {
                let prompts = list.iter().map(|prompt| match prompt {
                    Value::String(text) => of_text(text),
                    Value::Array(list) => ids(list).ok_or_else(expected),
                    _ => Err(expected()),
                });
                prompts.collect::<Result<Vec<_>, _>>()?
            }
        },
        Some(_) => return Err(expected()),
    };
    Ok(prompts.into_iter().map(Arc::from).collect())
}

impl Told {
    fn prompt(&self, choice: usize) -> &[u32] {
        self.prompts
            .get(choice / self.n)
            .map_or(&[], |prompt| prompt)
    }

    fn finish_reason(&self, end: &End) -> &'static str {
        match self.answer.nothing_new {
            true => "length",
            false => finish_reason(end),
        }
    }

    fn choice(&self, app: &App, index: usize, reply: Whole) -> Value {
        let prompt = self.prompt(index);
        let mut text = String::new();
        let mut logprobs = Logprobs::new(self.logprobs);
        if self.echo {
            text = app.text_of(prompt);
            logprobs.prompt(app, prompt, &reply.scores);
        }
        if !self.answer.nothing_new {
            text.push_str(&reply.text);
            logprobs.tokens(app, &reply.tokens);
        }
        json!({
            "index": index,
            "text": text,
            "logprobs": logprobs.value(),
            "finish_reason": self.finish_reason(&reply.end),
            "stop_reason": reply.end.stop_token,
        })
    }
}

/// OpenAI's lists of log-probabilities.
struct Logprobs {
    top: Option<usize>,
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters before the next token.
    offset: usize,
}

impl Logprobs {
    fn new(top: Option<usize>) -> Self {
        Self {
            top,
            tokens: Vec::new(),
            token_logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            text_offset: Vec::new(),
            offset: 0,
        }
    }

    fn push(&mut self, app: &App, id: u32, logprob: Option<&TokenLogprob>) {
        let Some(top) = self.top else { return };
        let token = app.token(id);
        self.text_offset.push(self.offset);
        self.offset += String::from_utf8_lossy(&token.bytes).chars().count();
        let Some(logprob) = logprob else {
            // Nothing comes before the first token of a prompt, so nothing is said of it.
            self.tokens.push(token.name.into());
            self.token_logprobs.push(Value::Null);
            self.top_logprobs.push(Value::Null);
            return;
        };
        let mut best: Map<String, Value> = Map::new();
        let chosen = std::iter::once((id, logprob.logprob));
        let others = logprob.top.iter().take(top).copied();
        // The chosen one's own number stands in both places. Of tokens with equal names the most
        // likely one counts.
        for (other, value) in chosen.chain(others.filter(|(other, _)| *other != id)) {
            let name = app.token(other).name;
            let value = openai::finite(value);
            match best.get(&name).and_then(Value::as_f64) {
                Some(before) if value.as_f64().is_none_or(|value| value <= before) => {}
                _ => drop(best.insert(name, value)),
            }
        }
        self.tokens.push(token.name.into());
        self.token_logprobs.push(openai::finite(logprob.logprob));
        self.top_logprobs.push(Value::Object(best));
    }

    fn prompt(&mut self, app: &App, prompt: &[u32], scores: &[TokenLogprob]) {
        for (place, &id) in prompt.iter().enumerate() {
            let score = place.checked_sub(1).and_then(|place| scores.get(place));
            self.push(app, id, score);
        }
    }

    fn tokens(&mut self, app: &App, tokens: &[Token]) {
        for token in tokens {
            self.push(app, token.id, token.logprob.as_ref());
        }
    }

    fn value(self) -> Value {
        match self.top {
            None => Value::Null,
            Some(_) => json!({
                "tokens": self.tokens,
                "token_logprobs": self.token_logprobs,
                "top_logprobs": self.top_logprobs,
                "text_offset": self.text_offset,
            }),
        }
    }
}

/// What is kept of a reply between its chunks.
#[derive(Default)]
struct Kept {
    scores: Vec<TokenLogprob>,
    echoed: bool,
    offset: usize,
    tokens: usize,
}

impl Events for Told {
    type State = Kept;

    fn delta(
        &self,
        app: &App,
        choice: usize,
        delta: Delta,
        end: Option<&End>,
        state: &mut Kept,
    ) -> Vec<Value> {
        state.scores.extend(delta.scores);
        state.tokens += delta.tokens.len();
        let mut logprobs = Logprobs::new(self.logprobs);
        logprobs.offset = state.offset;
        let mut text = String::new();
        let has_news = !delta.tokens.is_empty() || end.is_some();
        if self.echo && !state.echoed && has_news {
            state.echoed = true;
            let prompt = self.prompt(choice);
            text = app.text_of(prompt);
            logprobs.prompt(app, prompt, &state.scores);
        }
        if !self.answer.nothing_new {
            text.push_str(&delta.text);
            logprobs.tokens(app, &delta.tokens);
        }
        state.offset = logprobs.offset;
        let has_logprobs = !logprobs.tokens.is_empty();
        if text.is_empty() && !has_logprobs && end.is_none() {
            return Vec::new();
        }
        let value = json!({
            "index": choice,
            "text": text,
            "logprobs": match has_logprobs {
                true => logprobs.value(),
                false => Value::Null,
            },
            "finish_reason": end.map(|end| self.finish_reason(end)),
            "stop_reason": end.and_then(|end| end.stop_token),
        });
        let prompt = self.prompt(choice).len();
        vec![self.answer.chunk(value, prompt, state.tokens)]
    }

    fn after(&self, ends: &[End]) -> Vec<Value> {
        self.answer.after(ends)
    }
}
