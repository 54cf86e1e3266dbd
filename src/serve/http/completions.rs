//! OpenAI's `/v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::reply::{Delta, End, Token};
use super::fields::Fields;
use super::openai::{self, StreamOptions, finish_reason, usage};
use super::problem::{Problem, Style};
use super::stream::{Events, Whole, stream, wait_for};
use super::wanted::{Choosing, Limit, Wanted};
use super::{App, answered};
use crate::engine::TokenLogprob;
use crate::sampling::MAX_LOGPROBS;

/// Prompts of a request, at most.
const MOST_PROMPTS: usize = 4096;

/// What a request asks to be told of its replies.
struct Told {
    id: String,
    created: u64,
    model: String,
    /// How many of the most likely tokens are told.
    logprobs: Option<usize>,
    echo: bool,
    /// Whether no token was wanted: only the prompt is told.
    nothing_new: bool,
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
    app.require_ready()?;
    let model = app.check_model(&mut fields)?;
    let prompts = prompts(&app, &mut fields)?;
    let defaults = app.require_ready()?.defaults.clone();
    let choosing = Choosing::take(&mut fields, &defaults)?;
    let n = openai::replies(&mut fields)?;
    let logprobs = fields.size("logprobs", 0)?;
    if let Some(count) = logprobs.filter(|&count| count > MAX_LOGPROBS) {
        return Err(Problem::field(
            "logprobs",
            format!("{count} is above {MAX_LOGPROBS}"),
        ));
    }
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
    let mut wanted = Wanted {
        prompts,
        n,
        limit,
        sampling: choosing.sampling,
        seed: choosing.seed,
        score: logprobs.filter(|_| echo),
        stops,
        stop_tokens: choosing.stop_tokens,
        ignore_eos: choosing.ignore_eos,
        form,
    };
    wanted.sampling.logprobs = logprobs;
    let prompts = wanted.prompts.iter().map(|prompt| prompt.as_slice().into());
    let told = Told {
        id: openai::id("cmpl"),
        created: openai::now(),
        model,
        logprobs,
        echo,
        nothing_new,
        prompts: prompts.collect(),
        n,
    };
    let ones = app.submit(wanted)?;
    if streaming.wanted {
        let events = Stream { told, streaming };
        return Ok(stream(app, ones, events));
    }
    let replies = wait_for(&app, ones).await?;
    let ends: Vec<End> = replies
        .iter()
        .map(|reply| told.counted(reply.end))
        .collect();
    let choices: Vec<Value> = replies
        .into_iter()
        .enumerate()
        .map(|(index, reply)| told.choice(&app, index, reply))
        .collect();
    let prompts = told.prompts.iter().map(|prompt| prompt.len()).sum();
    let mut object = told.object(choices);
    object.insert("usage".to_owned(), usage(prompts, &ends));
    Ok(Json(Value::Object(object)).into_response())
}

/// The prompts: a text, texts, ids, or lists of ids.
fn prompts(app: &App, fields: &mut Fields) -> Result<Vec<Vec<u32>>, Problem> {
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
                prompts.collect::<Result<_, _>>()?
            }
        },
        Some(_) => return Err(expected()),
    };
    Ok(prompts)
}

impl Told {
    fn object(&self, choices: Vec<Value>) -> Map<String, Value> {
        let object = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        match object {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// What of a reply counts.
    fn counted(&self, end: End) -> End {
        End {
            tokens: if self.nothing_new { 0 } else { end.tokens },
            ..end
        }
    }

    fn prompt(&self, choice: usize) -> &[u32] {
        self.prompts
            .get(choice / self.n)
            .map_or(&[], |prompt| prompt)
    }

    fn choice(&self, app: &App, index: usize, reply: Whole) -> Value {
        let prompt = self.prompt(index);
        let mut text = String::new();
        let mut logprobs = Logprobs::new(self.logprobs);
        if self.echo {
            text = app.text_of(prompt);
            logprobs.prompt(app, prompt, &reply.scores);
        }
        if !self.nothing_new {
            text.push_str(&reply.text);
            logprobs.tokens(app, &reply.tokens);
        }
        json!({
            "index": index,
            "text": text,
            "logprobs": logprobs.value(),
            "finish_reason": match self.nothing_new {
                true => "length",
                false => finish_reason(&reply.end),
            },
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

struct Stream {
    told: Told,
    streaming: StreamOptions,
}

/// What is kept of a reply between its chunks.
#[derive(Default)]
struct Kept {
    scores: Vec<TokenLogprob>,
    echoed: bool,
    offset: usize,
    tokens: usize,
}

impl Stream {
    fn chunk(&self, choice: Value, tokens: usize, index: usize) -> Value {
        let mut object = self.told.object(vec![choice]);
        let prompt = self.told.prompt(index).len();
        self.streaming.annotate(&mut object, prompt, tokens);
        Value::Object(object)
    }
}

impl Events for Stream {
    type State = Kept;

    fn delta(
        &self,
        app: &App,
        choice: usize,
        delta: Delta,
        end: Option<&End>,
        state: &mut Kept,
    ) -> Vec<Value> {
        let told = &self.told;
        state.scores.extend(delta.scores);
        state.tokens += delta.tokens.len();
        let mut logprobs = Logprobs::new(told.logprobs);
        logprobs.offset = state.offset;
        let mut text = String::new();
        let has_news = !delta.tokens.is_empty() || end.is_some();
        if told.echo && !state.echoed && has_news {
            state.echoed = true;
            let prompt = told.prompt(choice);
            text = app.text_of(prompt);
            logprobs.prompt(app, prompt, &state.scores);
        }
        if !told.nothing_new {
            text.push_str(&delta.text);
            logprobs.tokens(app, &delta.tokens);
        }
        state.offset = logprobs.offset;
        let has_logprobs = !logprobs.tokens.is_empty();
        if text.is_empty() && !has_logprobs && end.is_none() {
            return Vec::new();
        }
        let reason = end.map(|end| match told.nothing_new {
            true => "length",
            false => finish_reason(end),
        });
        let value = json!({
            "index": choice,
            "text": text,
            "logprobs": match has_logprobs {
                true => logprobs.value(),
                false => Value::Null,
            },
            "finish_reason": reason,
            "stop_reason": end.and_then(|end| end.stop_token),
        });
        let tokens = if told.nothing_new { 0 } else { state.tokens };
        vec![self.chunk(value, tokens, choice)]
    }

    fn after(&self, ends: &[End]) -> Vec<Value> {
        if !self.streaming.usage {
            return Vec::new();
        }
        let ends: Vec<End> = ends.iter().map(|&end| self.told.counted(end)).collect();
        let mut object = self.told.object(Vec::new());
        let prompts = self.told.prompts.iter().map(|prompt| prompt.len()).sum();
        object.insert("usage".to_owned(), usage(prompts, &ends));
        vec![Value::Object(object)]
    }

    fn last(&self) -> Option<&'static str> {
        Some("[DONE]")
    }

    fn style(&self) -> Style {
        Style::OpenAi
    }
}
