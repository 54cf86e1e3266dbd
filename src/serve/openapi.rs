//! The description of the interfaces, in OpenAPI 3.1.

use serde_json::{Map, Value, json};

/// A field of a request: its name, its schema, and what it is.
type Field = (&'static str, fn() -> Value, &'static str);

fn real() -> Value {
    json!({"type": ["number", "null"]})
}

fn whole() -> Value {
    json!({"type": ["integer", "null"]})
}

fn flag() -> Value {
    json!({"type": ["boolean", "null"]})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn texts() -> Value {
    json!({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]})
}

fn ids() -> Value {
    json!({"type": ["array", "null"], "items": {"type": "integer"}})
}

fn object() -> Value {
    json!({"type": ["object", "null"]})
}

fn prompt() -> Value {
    let ids = json!({"type": "array", "items": {"type": "integer"}});
    json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        ids,
        {"type": "array", "items": ids},
    ]})
}

fn messages() -> Value {
    json!({"type": "array", "items": {
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
        "required": ["role", "content"],
    }})
}

const CHOOSING: &[Field] = &[
    ("model", text, "The name that the model is served by"),
    (
        "temperature",
        real,
        "What logits are divided by; 0 takes the most likely token",
    ),
    (
        "top_p",
        real,
        "The probability that the most likely tokens must reach together",
    ),
    (
        "top_k",
        whole,
        "How many of the most likely tokens are drawn from; 0 and -1 are all",
    ),
    (
        "min_p",
        real,
        "The least probability, as a share of the most likely token's",
    ),
    (
        "seed",
        whole,
        "With a seed, a reply is that of Flax's generate on its prompt alone",
    ),
    ("n", whole, "Replies to each prompt"),
    ("stop", texts, "Texts that end a reply and are cut from it"),
    ("stop_token_ids", ids, "Tokens that end a reply"),
    (
        "logit_bias",
        object,
        "What is added to the logits of tokens, by their ids",
    ),
    (
        "repetition_penalty",
        real,
        "What logits of tokens are divided by that are there already",
    ),
    (
        "presence_penalty",
        real,
        "What is taken from logits of tokens that the reply has",
    ),
    (
        "frequency_penalty",
        real,
        "What is taken for each time that the reply has one",
    ),
    ("min_tokens", whole, "New tokens before which no reply ends"),
    (
        "ignore_eos",
        flag,
        "Whether a reply goes on to its most tokens",
    ),
    (
        "response_format",
        object,
        "text, json_object or json_schema: what a reply must follow",
    ),
    (
        "stream",
        flag,
        "Whether the reply comes as server-sent events",
    ),
    (
        "stream_options",
        object,
        "include_usage, continuous_usage_stats",
    ),
];

const COMPLETION: &[Field] = &[
    (
        "prompt",
        prompt,
        "A text, texts, token ids, or lists of them; ids are taken as they are",
    ),
    (
        "max_tokens",
        whole,
        "New tokens at most; 16 by default. 0 with echo tells of the prompt alone",
    ),
    ("echo", flag, "Whether the prompt stands before the reply"),
    (
        "logprobs",
        whole,
        "How many of the most likely tokens are told with each, 0 to 20",
    ),
];

const CHAT: &[Field] = &[
    (
        "messages",
        messages,
        "The conversation, which the model's chat template renders",
    ),
    (
        "max_tokens",
        whole,
        "New tokens at most; as many as fit by default",
    ),
    ("max_completion_tokens", whole, "The same"),
    ("logprobs", flag, "Whether log-probabilities are told"),
    (
        "top_logprobs",
        whole,
        "How many of the most likely tokens are told with each, 0 to 20",
    ),
];

const TGI: &[Field] = &[
    ("inputs", text, "The prompt"),
    (
        "parameters",
        object,
        "max_new_tokens, do_sample, temperature, top_k, top_p, seed, repetition_penalty, \
         frequency_penalty, stop, details, decoder_input_details, top_n_tokens, truncate, \
         return_full_text, grammar",
    ),
];

fn schema(fields: &[&[Field]], required: &str) -> Value {
    let fields = fields.iter().copied().flatten();
    let properties: Map<String, Value> = fields
        .map(|(name, schema, description)| {
            let mut schema = schema();
            schema["description"] = (*description).into();
            ((*name).to_owned(), schema)
        })
        .collect();
    json!({"type": "object", "properties": properties, "required": [required]})
}

fn post(summary: &str, request: Value) -> Value {
    json!({"post": {
        "summary": summary,
        "requestBody": {"required": true, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "The reply, or its events"},
            "400": {"description": "A field that cannot be used, by its name"},
            "401": {"description": "A missing or wrong API key"},
            "429": {"description": "Too many requests wait; Retry-After says for how long"},
            "503": {"description": "The model is being loaded, or the server ends"},
        },
    }})
}

fn get(summary: &str) -> Value {
    json!({"get": {"summary": summary, "responses": {"200": {"description": summary}}}})
}

/// The whole description.
pub(super) fn document() -> Value {
    let tgi = || schema(&[TGI], "inputs");
    json!({
        "openapi": "3.1.0",
        "info": {"title": "gemma-xla", "version": env!("CARGO_PKG_VERSION")},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/completions": post("Continues prompts", schema(&[COMPLETION, CHOOSING], "prompt")),
            "/v1/chat/completions": post("Replies in a conversation",
                schema(&[CHAT, CHOOSING], "messages")),
            "/v1/models": get("The model that is served"),
            "/generate": post("Continues a prompt, as Text Generation Inference does", tgi()),
            "/generate_stream": post("The same, as server-sent events", tgi()),
            "/tokenize": post("The tokens of a text", schema(&[&TGI[..1]], "inputs")),
            "/info": get("The model and its limits"),
            "/health": get("200 when requests are taken, else 503"),
            "/metrics": get("Metrics in OpenMetrics' format"),
            "/version": get("The program's version"),
        },
    })
}
