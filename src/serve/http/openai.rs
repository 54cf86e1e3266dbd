//! What OpenAI's interfaces share, and `/v1/models`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::super::grammar::Form;
use super::super::reply::End;
use super::App;
use super::fields::Fields;
use super::problem::{Problem, Style};
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

    /// Adds a chunk's usage, where chunks have one.
    pub fn annotate(self, chunk: &mut Map<String, Value>, prompt: usize, new: usize) {
        if self.usage {
            let usage = match self.continuous {
                true => json!({
                    "prompt_tokens": prompt,
                    "completion_tokens": new,
                    "total_tokens": prompt + new,
                }),
                false => Value::Null,
            };
            chunk.insert("usage".to_owned(), usage);
        }
    }
}

/// The usage of all replies.
pub(super) fn usage(prompt: usize, ends: &[End]) -> Value {
    let new: usize = ends.iter().map(|end| end.tokens).sum();
    let cached: usize = ends.iter().map(|end| end.reused).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached.min(prompt)},
    })
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

pub(super) fn id(prefix: &str) -> String {
    format!("{prefix}-{:016x}", RandomState::new().hash_one(1_u8))
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
