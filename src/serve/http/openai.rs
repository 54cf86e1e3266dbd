//! What OpenAI's interfaces share, and `/v1/models`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::grammar::Form;
use super::super::reply::End;
use super::fields::Fields;
use super::problem::{Problem, Style};
use super::stream::Whole;
use super::{App, random};
use crate::engine::FinishReason;

/// Fields that do not change a reply.
pub(super) const IGNORED: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "add_special_tokens",
];
/// What clients of Text Generation Inference send, which serves one model too.
const ANY_MODEL: [&str; 3] = ["", "tgi", "dummy"];
/// Replies to a prompt, at most.
const MOST_REPLIES: usize = 128;

/// How many replies each prompt has.
pub(super) fn replies(fields: &mut Fields) -> Result<usize, Problem> {
    let n = fields.size("n", 1)?.unwrap_or(1);
    if n > MOST_REPLIES {
        return Err(Problem::field("n", format!("{n} is above {MOST_REPLIES}")));
    }
    match fields.size("best_of", 1)? {
        Some(best_of) if best_of != n => Err(Problem::field(
            "best_of",
            "it is not supported, unless it equals n",
        )),
        _ => Ok(n),
    }
}

/// What replies must follow.
pub(super) fn response_format(fields: &mut Fields) -> Result<Option<Form>, Problem> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(None);
    };
    let form = match format.text("type")?.as_deref() {
        None => return Err(format.problem("type", "it is missing")),
        Some("text") => None,
        Some("json_object") => Some(Form::JsonObject),
        Some("json_schema") => {
            let Some(mut wrapper) = format.object("json_schema")? else {
                return Err(format.problem("json_schema", "it is missing"));
            };
            let Some(schema) = wrapper.any("schema") else {
                return Err(wrapper.problem("schema", "it is missing"));
            };
            wrapper.finish(&["name", "description", "strict"])?;
            Some(Form::JsonSchema(schema))
        }
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            let message = format!("{other:?} is not text, json_object or json_schema");
            return Err(format.problem("type", message));
        }
    };
    format.finish(&[])?;
    Ok(form)
}

/// Whether and how a reply is streamed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamOptions {
    pub wanted: bool,
    /// Whether a last chunk has the usage.
    pub usage: bool,
    /// Whether every chunk has it.
    pub continuous: bool,
}

impl StreamOptions {
    pub fn take(fields: &mut Fields) -> Result<Self, Problem> {
        let wanted = fields.flag("stream")?.unwrap_or(false);
        let Some(mut options) = fields.object("stream_options")? else {
            return Ok(Self {
                wanted,
                ..Self::default()
            });
        };
        if !wanted {
            let message = "it is for streams: stream is not true";
            return Err(Problem::field("stream_options", message));
        }
        let taken = Self {
            wanted,
            usage: options.flag("include_usage")?.unwrap_or(false),
            continuous: options.flag("continuous_usage_stats")?.unwrap_or(false),
        };
        options.finish(&["include_obfuscation"])?;
        Ok(taken)
    }
}

/// What all objects of one answer have in common, streamed or not.
pub(super) struct Answer {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    pub streaming: StreamOptions,
    /// Tokens of all prompts.
    prompt_tokens: usize,
    /// Whether no token was wanted: only the prompt is told.
    pub nothing_new: bool,
}

impl Answer {
    /// For the model of this name. `prefix` begins its id, and `objects` are the kinds of a whole
    /// answer and of a chunk.
    pub fn new(
        prefix: &str,
        objects: [&'static str; 2],
        model: String,
        streaming: StreamOptions,
        prompt_tokens: usize,
    ) -> Self {
        let [whole, chunk] = objects;
        Self {
            id: format!("{prefix}-{:016x}", random()),
            object: if streaming.wanted { chunk } else { whole },
            created: now(),
            model,
            streaming,
            prompt_tokens,
            nothing_new: false,
        }
    }

    fn object(&self, choices: Vec<Value>) -> Map<String, Value> {
        let fields = [
            ("id", json!(self.id)),
            ("object", json!(self.object)),
            ("created", json!(self.created)),
            ("model", json!(self.model)),
            ("choices", choices.into()),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        fields.into_iter().collect()
    }

    /// The answer of replies that were waited for.
    pub fn whole(&self, replies: Vec<Whole>, choice: impl Fn(usize, Whole) -> Value) -> Response {
        let ends: Vec<End> = replies.iter().map(|reply| reply.end).collect();
        let replies = replies.into_iter().enumerate();
        let choices = replies.map(|(index, reply)| choice(index, reply));
        let mut object = self.object(choices.collect());
        object.insert("usage".to_owned(), self.usage(&ends));
        Json(object).into_response()
    }

    /// A chunk of a stream, with its usage where chunks have one: the tokens of the choice's prompt
    /// and its new ones so far.
    pub fn chunk(&self, choice: Value, prompt: usize, new: usize) -> Value {
        let mut object = self.object(vec![choice]);
        if self.streaming.usage {
            let usage = match self.streaming.continuous {
                true => {
                    let new = self.counted(new);
                    json!({
                        "prompt_tokens": prompt,
                        "completion_tokens": new,
                        "total_tokens": prompt + new,
                    })
                }
                false => Value::Null,
            };
            object.insert("usage".to_owned(), usage);
        }
        object.into()
    }

    /// What comes after all replies of a stream.
    pub fn after(&self, ends: &[End]) -> Vec<Value> {
        if !self.streaming.usage {
            return Vec::new();
        }
        let mut object = self.object(Vec::new());
        object.insert("usage".to_owned(), self.usage(ends));
        vec![object.into()]
    }

    fn counted(&self, new: usize) -> usize {
        if self.nothing_new { 0 } else { new }
    }

    fn usage(&self, ends: &[End]) -> Value {
        let prompt = self.prompt_tokens;
        let new = self.counted(ends.iter().map(|end| end.tokens).sum());
        let cached: usize = ends.iter().map(|end| end.reused).sum();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": {"cached_tokens": cached.min(prompt)},
        })
    }
}

pub(super) fn finish_reason(end: &End) -> &'static str {
    match end.reason {
        FinishReason::Length => "length",
        FinishReason::Eos | FinishReason::Stop => "stop",
    }
}

/// A number as JSON, which has no infinities.
pub(super) fn finite(value: f32) -> Value {
    match value.is_finite() {
        true => json!(value),
        false => json!(f32::MIN),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl App {
    /// The model that a request names, which must be the one that is served.
    pub(super) fn check_model(&self, fields: &mut Fields) -> Result<String, Problem> {
        match fields.text("model")? {
            Some(model) if !self.is_served(&model) => Err(self.unknown_model(&model)),
            _ => Ok(self.name.clone()),
        }
    }

    fn is_served(&self, model: &str) -> bool {
        model == self.name || ANY_MODEL.contains(&model)
    }

    fn unknown_model(&self, model: &str) -> Problem {
        let model: String = model.chars().take(200).collect();
        let message = format!("the model {model:?} is not served here; {:?} is", self.name);
        Problem {
            field: Some("model".to_owned()),
            ..Problem::new(StatusCode::NOT_FOUND, message).with_code("model_not_found")
        }
    }

    fn model_object(&self) -> Value {
        json!({
            "id": self.name,
            "object": "model",
            "created": self.started,
            "owned_by": "gemma-xla",
            "max_model_len": self.ready().map(|ready| ready.max_length),
        })
    }
}

/// `/v1/models`.
pub(super) async fn models(State(app): State<Arc<App>>) -> Response {
    match app.require_ready() {
        Ok(_) => Json(json!({"object": "list", "data": [app.model_object()]})).into_response(),
        Err(problem) => problem.response(Style::OpenAi),
    }
}

/// `/v1/models/NAME`.
pub(super) async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match app.is_served(&name) {
        true => Json(app.model_object()).into_response(),
        false => app.unknown_model(&name).response(Style::OpenAi),
    }
}
