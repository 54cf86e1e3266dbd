//! The interface of Text Generation Inference: `/generate`, `/generate_stream`, `/tokenize`,
//! `/info`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::grammar::Form;
use super::super::reply::{Delta, End, Token};
use super::fields::Fields;
use super::openai::finite;
use super::problem::{Problem, Style};
use super::stream::{Events, ended_early, stream, wait_for};
use super::wanted::{Choosing, Limit, Wanted};
use super::{App, answered};
use crate::engine::{FinishReason, TokenLogprob};

/// New tokens where a request does not say.
const DEFAULT_TOKENS: usize = 100;

/// What a request asks to be told.
struct Told {
    prompt: Arc<[u32]>,
    /// The prompt's text, where it is to stand before the reply.
    before: Option<String>,
    details: bool,
    /// Whether the prompt's tokens are among the details.
    prefill: bool,
    top: usize,
    seed: Option<u64>,
}

/// `/generate`.
pub(super) async fn generate(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::Tgi, async {
        let body = app.body(request).await?;
        let (reply, headers) = once(&app, Fields::parse(&body)?).await?;
        Ok((headers, Json(reply)).into_response())
    })
    .await
}

/// `/generate_stream`.
pub(super) async fn generate_stream(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::Tgi, async {
        let body = app.body(request).await?;
        streamed(app, Fields::parse(&body)?)
    })
    .await
}

/// `POST /`: either of them, as its field `stream` says.
pub(super) async fn either(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::Tgi, async {
        let body = app.body(request).await?;
        let mut fields = Fields::parse(&body)?;
        match fields.flag("stream")?.unwrap_or(false) {
            true => streamed(app, fields),
            false => {
                let (reply, headers) = once(&app, fields).await?;
                Ok((headers, Json(json!([reply]))).into_response())
            }
        }
    })
    .await
}

/// Headers with what a reply took.
type Headers = [(&'static str, String); 6];

async fn once(app: &Arc<App>, fields: Fields) -> Result<(Value, Headers), Problem> {
    let (told, wanted) = take(app, fields)?;
    let mut replies = wait_for(app, app.submit(wanted)?).await?;
    // One was asked for.
    let Some(reply) = replies.pop() else {
        return Err(ended_early());
    };
    let headers = told.headers(&reply.end);
    let mut value = json!({
        "generated_text": told.before.clone().unwrap_or_default() + &reply.text,
    });
    if told.details {
        let mut details = told.details(&reply.end);
        let tokens: Vec<Value> = reply.tokens.iter().map(|t| token_value(app, t)).collect();
        details["tokens"] = tokens.into();
        details["prefill"] = match told.prefill {
            true => told.prefill_value(app, &reply.scores),
            false => json!([]),
        };
        if told.top > 0 {
            let top = reply.tokens.iter().map(|token| told.top_value(app, token));
            details["top_tokens"] = top.collect::<Vec<_>>().into();
        }
        details["best_of_sequences"] = Value::Null;
        value["details"] = details;
    }
    Ok((value, headers))
}

fn streamed(app: Arc<App>, fields: Fields) -> Result<Response, Problem> {
    let (told, wanted) = take(&app, fields)?;
    let ones = app.submit(wanted)?;
    Ok(stream(app, ones, Stream(told)))
}

/// Takes a request's fields.
fn take(app: &App, mut fields: Fields) -> Result<(Told, Wanted), Problem> {
    let ready = app.require_ready()?;
    let Some(text) = fields.text("inputs")? else {
        return Err(Problem::field("inputs", "it is missing"));
    };
    let mut prompt = app.encode("inputs", &text, false)?;
    let mut parameters = match fields.object("parameters")? {
        Some(parameters) => parameters,
        None => Fields::new(serde_json::Map::new()),
    };
    let p = &mut parameters;
    let mut sampling = ready.defaults.clone();
    sampling.do_sample = p.flag("do_sample")?.unwrap_or(false);
    let mut draws = sampling.do_sample;
    draws |= p.reals([
        ("temperature", &mut sampling.temperature),
        ("top_p", &mut sampling.top_p),
    ])?;
    if let Some(top_k) = p.top_k("top_k")? {
        sampling.top_k = top_k;
        draws = true;
    }
    // As in TGI, a setting that only a draw obeys asks for one.
    sampling.do_sample = draws;
    p.reals([
        ("repetition_penalty", &mut sampling.repetition_penalty),
        ("frequency_penalty", &mut sampling.frequency_penalty),
    ])?;
    let seed = p.seed("seed")?;
    let limit = match p.size("max_new_tokens", 1)? {
        Some(tokens) => Limit::Exactly(tokens, "max_new_tokens"),
        None => Limit::UpTo(DEFAULT_TOKENS),
    };
    let details = p.flag("details")?.unwrap_or(false);
    let prefill = p.flag("decoder_input_details")?.unwrap_or(false);
    let top = p.most_likely("top_n_tokens")?.unwrap_or(0);
    let full_text = p.flag("return_full_text")?.unwrap_or(false);
    let stops = p.stops("stop")?;
    if let Some(most) = p.size("truncate", 1)? {
        // The first tokens go, as in TGI.
        prompt.drain(..prompt.len().saturating_sub(most));
    }
    let form = match p.object("grammar")? {
        None => None,
        Some(mut grammar) => {
            let kind = grammar.text("type")?.unwrap_or_default();
            let value = grammar.any("value");
            let form = match (kind.as_str(), value) {
                ("json" | "json_schema", Some(schema @ Value::Object(_))) => {
                    // TGI takes both a schema and one with a name around it.
                    let inner = schema.get("schema").cloned();
                    Form::JsonSchema(inner.unwrap_or(schema))
                }
                ("regex", Some(Value::String(regex))) => Form::Regex(regex),
                _ => {
                    let expected = "expected json with a schema, or regex with an expression";
                    return Err(grammar.problem("type", expected));
                }
            };
            grammar.finish(&[])?;
            Some(form)
        }
    };
    p.refuse("watermark", |value| value == false)?;
    p.refuse("typical_p", |value| value == 1.0)?;
    p.refuse("best_of", |value| value == 1)?;
    parameters.finish(&["adapter_id"])?;
    fields.finish(&["stream"])?;

    sampling.logprobs = (details || top > 0).then_some(top);
    let prompt: Arc<[u32]> = prompt.into();
    let told = Told {
        before: full_text.then_some(text),
        details,
        prefill,
        top,
        seed,
        prompt: prompt.clone(),
    };
    let choosing = Choosing {
        sampling,
        seed,
        stop_tokens: Vec::new(),
        ignore_eos: false,
    };
    let wanted = Wanted {
        prompts: vec![prompt],
        n: 1,
        limit,
        choosing,
        score: prefill.then_some(0),
        stops,
        form,
    };
    Ok((told, wanted))
}

impl Told {
    fn details(&self, end: &End) -> Value {
        json!({
            "finish_reason": match end.reason {
                FinishReason::Eos => "eos_token",
                FinishReason::Length => "length",
                FinishReason::Stop => "stop_sequence",
            },
            "generated_tokens": end.tokens,
            "input_length": self.prompt.len(),
            "seed": self.seed,
        })
    }

    /// Times are in milliseconds.
    fn headers(&self, end: &End) -> Headers {
        let inference = end.took.saturating_sub(end.queued);
        let tokens = end.tokens.max(1) as u32;
        [
            ("x-prompt-tokens", self.prompt.len().to_string()),
            ("x-generated-tokens", end.tokens.to_string()),
            ("x-total-time", end.took.as_millis().to_string()),
            ("x-queue-time", end.queued.as_millis().to_string()),
            ("x-inference-time", inference.as_millis().to_string()),
            (
                "x-time-per-token",
                (inference / tokens).as_millis().to_string(),
            ),
        ]
    }

    fn prefill_value(&self, app: &App, scores: &[TokenLogprob]) -> Value {
        let tokens = self.prompt.iter().enumerate().map(|(place, &id)| {
            let score = place.checked_sub(1).and_then(|place| scores.get(place));
            let logprob = score.map_or(Value::Null, |score| finite(score.logprob));
            json!({"id": id, "text": app.token(id).name, "logprob": logprob})
        });
        tokens.collect::<Vec<_>>().into()
    }

    fn top_value(&self, app: &App, token: &Token) -> Value {
        let top = token.logprob.iter().flat_map(|logprob| &logprob.top);
        let top = top.map(|&(id, logprob)| {
            let text = app.token(id);
            json!({"id": id, "text": text.name, "logprob": finite(logprob),
                "special": text.bytes.is_empty()})
        });
        top.collect::<Vec<_>>().into()
    }
}

fn token_value(app: &App, token: &Token) -> Value {
    let text = app.token(token.id);
    let logprob = token.logprob.as_ref();
    json!({
        "id": token.id,
        "text": match text.bytes.is_empty() {
            true => text.name,
            false => token.text.clone(),
        },
        "logprob": logprob.map_or(Value::Null, |logprob| finite(logprob.logprob)),
        "special": text.bytes.is_empty(),
    })
}

struct Stream(Told);

/// What is kept of a reply between its events.
#[derive(Default)]
struct Kept {
    text: String,
    told: usize,
}

impl Stream {
    fn event(&self, app: &App, token: &Token, kept: &mut Kept, end: Option<&End>) -> Value {
        kept.told += 1;
        let mut event = json!({
            "index": kept.told,
            "token": token_value(app, token),
            "generated_text": null,
            "details": null,
        });
        if self.0.top > 0 {
            event["top_tokens"] = self.0.top_value(app, token);
        }
        if let Some(end) = end {
            let before = self.0.before.clone().unwrap_or_default();
            event["generated_text"] = (before + &kept.text).into();
            event["details"] = self.0.details(end);
        }
        event
    }
}

impl Events for Stream {
    type State = Kept;

    fn delta(
        &self,
        app: &App,
        _: usize,
        delta: Delta,
        end: Option<&End>,
        kept: &mut Kept,
    ) -> Vec<Value> {
        kept.text.push_str(&delta.text);
        let last = delta.tokens.len().saturating_sub(1);
        let tokens = delta.tokens.iter().enumerate();
        tokens
            .map(|(place, token)| {
                // The end stands in the event of the last token.
                let end = end.filter(|_| place == last);
                self.event(app, token, kept, end)
            })
            .collect()
    }

    fn last(&self) -> Option<&'static str> {
        None
    }

    fn style(&self) -> Style {
        Style::Tgi
    }
}

/// `/tokenize`.
pub(super) async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::Tgi, async {
        let body = app.body(request).await?;
        let mut fields = Fields::parse(&body)?;
        let Some(text) = fields.text("inputs")? else {
            return Err(Problem::field("inputs", "it is missing"));
        };
        let adds = fields.flag("add_special_tokens")?.unwrap_or(true);
        fields.finish(&["parameters"])?;
        let ids = app.encode("inputs", &text, !adds)?;
        let mut start = 0;
        let tokens = ids.into_iter().map(|id| {
            let token = app.token(id);
            let stop = start + String::from_utf8_lossy(&token.bytes).chars().count();
            let value = json!({"id": id, "text": token.name, "start": start, "stop": stop});
            start = stop;
            value
        });
        Ok(Json(tokens.collect::<Vec<_>>()).into_response())
    })
    .await
}

/// `/info`.
pub(super) async fn info(State(app): State<Arc<App>>) -> Response {
    answered(Style::Tgi, async {
        let ready = app.require_ready()?;
        let engine = ready.model.engine();
        Ok(Json(json!({
            "model_id": app.name,
            "model_sha": null,
            "model_dtype": engine.spec().compute.to_string(),
            "model_device_type": engine.device_kind(),
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": app.scheduler.most_replies(),
            "max_best_of": 1,
            "max_stop_sequences": 64,
            "max_input_tokens": ready.max_length - 1,
            "max_total_tokens": ready.max_length,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "router": "gemma-xla",
            "version": env!("CARGO_PKG_VERSION"),
        }))
        .into_response())
    })
    .await
}
