//! The defaults of generation that a model comes with, from generation_config.json.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json::{self, Object};
use super::{ConfigError, GENERATION_CONFIG_FILE};
use crate::sampling::SamplingOptions;

/// Keys that say nothing of which tokens are generated, or that
/// [`GemmaConfig`](super::GemmaConfig) reads.
const NEUTRAL: [&str; 18] = [
    "_from_model_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "return_legacy_cache",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "early_stopping",
    "length_penalty",
    "trust_remote_code",
];

/// Keys that are not obeyed, with the value that asks for nothing.
const OFF: [(&str, f64); 12] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("repetition_penalty", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("typical_p", 1.0),
    ("guidance_scale", 1.0),
    ("min_new_tokens", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("diversity_penalty", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
];

/// The options that set what a key that is not obeyed asks for.
const INSTEAD: [(&str, &str); 5] = [
    ("repetition_penalty", "repetition_penalty"),
    ("min_new_tokens", "min_new_tokens"),
    ("min_p", "min_p"),
    ("bad_words_ids", "bad_words"),
    ("num_return_sequences", "num_return_sequences"),
];

/// The defaults of generation that a model comes with, as Transformers' Flax Gemma takes them:
/// `do_sample`, `temperature`, `top_k`, `top_p`, `max_new_tokens`, `max_length`, `min_length`,
/// `suppress_tokens`, `begin_suppress_tokens`, `forced_bos_token_id`, `forced_eos_token_id` and
/// `no_repeat_ngram_size`. Special tokens are in [`GemmaConfig`](super::GemmaConfig).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// New tokens a prompt at most.
    pub max_new_tokens: Option<usize>,
    /// Tokens of prompt and reply at most, where `max_new_tokens` does not say.
    pub max_length: Option<usize>,
    /// What the file asks for and is not done.
    pub ignored: Vec<IgnoredKey>,
}

/// A key of generation_config.json that is not obeyed; displayed, it is a line that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredKey {
    /// The file.
    pub file: PathBuf,
    /// The key.
    pub key: String,
    /// Its value, as JSON.
    pub value: String,
    /// The option of [`SamplingOptions`] that does what it asks for, if there is one.
    pub instead: Option<&'static str>,
}

impl std::fmt::Display for IgnoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            file, key, value, ..
        } = self;
        write!(f, "{}: {key} {value} is not obeyed", file.display())
    }
}

impl GenerationConfig {
    /// Reads the generation_config.json in `dir`, where there is one, for a vocabulary of
    /// `vocab_size` tokens. A file that was made from config.json alone says nothing, as in
    /// Transformers.
    ///
    /// # Errors
    /// A file that cannot be read or is not a JSON object, and a key that has the wrong type or an
    /// impossible value.
    pub fn from_dir(dir: &Path, vocab_size: usize) -> Result<Self, ConfigError> {
        let file = dir.join(GENERATION_CONFIG_FILE);
        match json::read_text(&file) {
            Ok(text) => Self::from_json(&file, &text, vocab_size),
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the text of a generation_config.json. `file` is the name that errors give it.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir).
    pub fn from_json(file: &Path, text: &str, vocab_size: usize) -> Result<Self, ConfigError> {
        let keys = Object::parse(file, text)?;
        if keys.boolean("_from_model_config")? == Some(true) {
            return Ok(Self::default());
        }
        const MOST: usize = i32::MAX as usize;
        let mut config = Self::default();
        let sampling = &mut config.sampling;
        sampling.do_sample = keys.boolean("do_sample")?.unwrap_or(false);
        let number = |key, default: f32, is_usable: fn(f64) -> bool, expected: &str| {
            let Some(found) = keys.number(key)? else {
                return Ok(default);
            };
            match is_usable(found) {
                true => Ok(found as f32),
                false => Err(keys.bad(key, &Value::from(found), format!("it must be {expected}"))),
            }
        };
        sampling.temperature = number("temperature", 1.0, |t| t >= 0.0, "0 or above")?;
        let is_share = |p: f64| p > 0.0 && p <= 1.0;
        sampling.top_p = number("top_p", 1.0, is_share, "above 0 and at most 1")?;
        // Without the key Transformers has 50; null and 0 are all tokens.
        if keys.has("top_k") {
            sampling.top_k = keys.count("top_k", MOST)?.unwrap_or(0);
        }
        let ids = |key| Ok(keys.token_ids(key, vocab_size)?.unwrap_or_default());
        sampling.suppress_tokens = ids("suppress_tokens")?;
        sampling.begin_suppress_tokens = ids("begin_suppress_tokens")?;
        sampling.forced_bos_token_id = keys.token_id("forced_bos_token_id", vocab_size)?;
        sampling.forced_eos_token_id = keys.token_id("forced_eos_token_id", vocab_size)?;
        sampling.min_length = keys.count("min_length", MOST)?.unwrap_or(0);
        let ngram = keys.count("no_repeat_ngram_size", MOST)?;
        sampling.no_repeat_ngram_size = ngram.unwrap_or(0);
        config.max_new_tokens = keys.size("max_new_tokens", MOST)?;
        config.max_length = keys.size("max_length", MOST)?;
        const OBEYED: [&str; 12] = [
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "min_length",
            "no_repeat_ngram_size",
            "max_new_tokens",
            "max_length",
        ];
        for (key, value) in keys.entries() {
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => OFF
                    .iter()
                    .any(|(name, off)| name == key && number.as_f64() == Some(*off)),
                Value::Array(list) => list.is_empty(),
                Value::Object(object) => object.is_empty(),
                _ => false,
            };
            let is_known = NEUTRAL.contains(&key.as_str()) || OBEYED.contains(&key.as_str());
            if !is_off && !is_known {
                let instead = INSTEAD.iter().find(|(name, _)| name == key);
                config.ignored.push(IgnoredKey {
                    file: file.to_path_buf(),
                    key: key.clone(),
                    value: json::shown(value),
                    instead: instead.map(|(_, option)| *option),
                });
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GenerationConfig, String> {
        let file = Path::new("generation_config.json");
        GenerationConfig::from_json(file, text, 100).map_err(|error| error.to_string())
    }

    #[test]
    fn what_flax_obeys_is_read() {
        let config = read(
            r#"{"do_sample": true, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_length": 8,
                "suppress_tokens": [4, 5], "begin_suppress_tokens": [6], "forced_eos_token_id": 7,
                "no_repeat_ngram_size": 2, "max_new_tokens": 9, "max_length": 30,
                "eos_token_id": [1, 2], "num_beams": 1, "repetition_penalty": 1.0}"#,
        );
        let expected = GenerationConfig {
            sampling: SamplingOptions {
                do_sample: true,
                temperature: 0.5,
                top_k: 3,
                top_p: 0.9,
                min_length: 8,
                suppress_tokens: vec![4, 5],
                begin_suppress_tokens: vec![6],
                forced_eos_token_id: Some(7),
                no_repeat_ngram_size: 2,
                ..SamplingOptions::default()
            },
            max_new_tokens: Some(9),
            max_length: Some(30),
            ignored: Vec::new(),
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn null_and_0_draw_from_all_tokens_and_no_key_from_50() {
        let top_k = |text| read(text).map(|config| config.sampling.top_k);
        assert_eq!(top_k("{}"), Ok(50));
        assert_eq!(top_k(r#"{"top_k": null}"#), Ok(0));
        assert_eq!(top_k(r#"{"top_k": 0}"#), Ok(0));
    }

    #[test]
    fn a_file_made_from_the_models_configuration_says_nothing() {
        let text = r#"{"_from_model_config": true, "do_sample": true, "num_beams": 4}"#;
        assert_eq!(read(text), Ok(GenerationConfig::default()));
    }

    #[test]
    fn every_key_that_is_not_obeyed_is_named() {
        let config = read(
            r#"{"num_beams": 4, "repetition_penalty": 1.8, "min_p": 0.5, "typical_p": 0.5,
                "bad_words_ids": [[5]], "sequence_bias": [[[5], -1.0]], "penalty_alpha": 0.6,
                "forced_decoder_ids": [[1, 70]], "a_new_key": "x"}"#,
        );
        let ignored = config.expect("it is read").ignored;
        let named: Vec<&str> = ignored.iter().map(|ignored| ignored.key.as_str()).collect();
        assert_eq!(
            named,
            [
                "num_beams",
                "repetition_penalty",
                "min_p",
                "typical_p",
                "bad_words_ids",
                "sequence_bias",
                "penalty_alpha",
                "forced_decoder_ids",
                "a_new_key"
            ]
        );
        assert_eq!(
            ignored[0].to_string(),
            "generation_config.json: num_beams 4 is not obeyed"
        );
        assert_eq!(ignored[1].instead, Some("repetition_penalty"));
    }

    #[test]
    fn impossible_values_are_named() {
        for (text, part) in [
            (r#"{"temperature": -1.0}"#, "temperature"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_p": 0.0}"#, "top_p"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"do_sample": "yes"}"#, "do_sample"),
            (r#"{"suppress_tokens": [100]}"#, "suppress_tokens"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens"),
        ] {
            let message = read(text).expect_err(text);
            assert!(message.contains(part), "{message}");
            assert!(message.contains("generation_config.json"), "{message}");
        }
    }
}
