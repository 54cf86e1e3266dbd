//! Which special tokens are put around a text.
//!
//! Transformers decides it by the class that it loads a tokenizer as. Gemma's classes rebuild the
//! post-processor from `add_bos_token` and `add_eos_token` in tokenizer_config.json, and ignore the
//! one in tokenizer.json; the general classes do the reverse.

use std::path::Path;

use serde_json::{Map, Value};

use super::Error;
use crate::input_file;
use crate::json_text;

/// The tokenizer's configuration.
pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
/// Special tokens, which count where the configuration does not describe the added tokens.
const MAP_FILE: &str = "special_tokens_map.json";
/// The most bytes of either file. Gemma 3's configuration has a megabyte.
const MAX_FILE: u64 = 1 << 26;
/// The classes that obey the two keys, without the `Fast` at the end.
const OBEDIENT: [&str; 2] = ["GemmaTokenizer", "LlamaTokenizer"];
/// Gemma's own tokens, which its classes have unless they are told others.
pub(super) const BOS: &str = "<bos>";
const EOS: &str = "<eos>";

/// Which special tokens are put around a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundaryTokens {
    /// Whether those that the post-processor of tokenizer.json says are put there, and not these.
    /// tokenizer.model has no post-processor.
    pub post_processor: bool,
    /// The token before each text.
    pub bos: Option<String>,
    /// The token after each text.
    pub eos: Option<String>,
}

impl Default for BoundaryTokens {
    /// Gemma's: `<bos>` before each text.
    fn default() -> Self {
        Self {
            post_processor: false,
            bos: Some(BOS.to_owned()),
            eos: None,
        }
    }
}

impl BoundaryTokens {
    /// What the files in a folder say, by the rules of Transformers 4.57. Without any, Gemma's own.
    ///
    /// # Errors
    /// A tokenizer_config.json that is there and cannot be read; keys that contradict each other.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(CONFIG_FILE);
        let Some(config) = read(&path)? else {
            return Ok(Self::default());
        };
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        // Without a class, it is that of the model.
        let class = class.map_or(OBEDIENT[0], |class| class.trim_end_matches("Fast"));
        // Older files describe the tokens apart.
        let map = match config.contains_key("added_tokens_decoder") {
            true => None,
            false => read(&dir.join(MAP_FILE))?,
        };
        let token = |key: &str, otherwise: &str| match map
            .as_ref()
            .and_then(|map| map.get(key))
            .or_else(|| config.get(key))
        {
            None => Ok(Some(otherwise.to_owned())),
            Some(Value::Null) => Ok(None),
            Some(value) => {
                let content = value.get("content").unwrap_or(value);
                let problem = || format!("key \"{key}\": expected a token");
                let text = content
                    .as_str()
                    .ok_or_else(|| Error::config(&path, problem()))?;
                Ok(Some(text.to_owned()))
            }
        };
        let added = |switch: &str, is_default: bool, key: &str, otherwise: &str| {
            if !config.get(switch).map_or(is_default, is_true) {
                return Ok(None);
            }
            token(key, otherwise)?.map(Some).ok_or_else(|| {
                Error::config(
                    &path,
                    format!("{switch} is true, and {key} is null: no token can be added"),
                )
            })
        };
        Ok(Self {
            post_processor: !OBEDIENT.contains(&class),
            bos: added("add_bos_token", true, "bos_token", BOS)?,
            eos: added("add_eos_token", false, "eos_token", EOS)?,
        })
    }
}

/// Whether Python takes a value for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
    }
}

/// The keys of a file, if there is one.
fn read(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let failed = |problem: &dyn std::fmt::Display| Error::config(path, problem.to_string());
    let content = match input_file::read(path, MAX_FILE) {
        Ok(Some(content)) => content,
        Ok(None) => return Err(failed(&format_args!("larger than {MAX_FILE} bytes"))),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(failed(&problem)),
    };
    match serde_json::from_slice(&json_text::standard(&content)) {
        Ok(Value::Object(keys)) => Ok(Some(keys)),
        Ok(_) => Err(failed(&"expected a JSON object")),
        Err(problem) => Err(failed(&format_args!("not valid JSON: {problem}"))),
    }
}
