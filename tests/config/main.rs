//! Configurations: the rules of Transformers' classes, and what is refused.

mod family;
mod files;
mod keys;
mod mangled;

use std::path::Path;

use gemma_xla::config::{ConfigError, GemmaConfig};
use serde_json::{Map, Value, json};

/// The name that errors give to a text.
pub const FILE: &str = "model/config.json";

/// The configuration of Gemma 2B as its `flax` revision has it.
pub fn gemma_2b() -> Map<String, Value> {
    let Value::Object(keys) = json!({
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": 256,
        "hidden_act": "gelu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": null,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": 256000
    }) else {
        unreachable!()
    };
    keys
}

/// Reads a configuration of these keys.
pub fn parse(keys: &Map<String, Value>) -> Result<GemmaConfig, ConfigError> {
    GemmaConfig::from_json(Path::new(FILE), &Value::from(keys.clone()).to_string())
}

/// Gemma 2B with some keys changed.
pub fn with(changes: Value) -> Result<GemmaConfig, ConfigError> {
    let mut keys = gemma_2b();
    keys.extend(changes.as_object().unwrap().clone());
    parse(&keys)
}

/// Gemma 2B without a key.
pub fn without(key: &str) -> Result<GemmaConfig, ConfigError> {
    let mut keys = gemma_2b();
    keys.remove(key);
    parse(&keys)
}

/// The message of a configuration that must be refused: one line that names the file.
#[track_caller]
pub fn refused(result: Result<GemmaConfig, ConfigError>) -> String {
    let message = result.expect_err("no model can be so").to_string();
    assert!(message.starts_with(FILE), "names no file: {message}");
    assert!(!message.contains('\n'), "more than a line: {message}");
    message
}

/// Asserts that a message has these words.
#[track_caller]
pub fn assert_says(message: &str, words: &str) {
    assert!(message.contains(words), "{words:?} is not in: {message}");
}
