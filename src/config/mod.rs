//! A model's geometry and constants, from its config.json and generation_config.json.
//!
//! Keys and defaults are those of `GemmaConfig` in Transformers 4.57. The keys that decide the
//! shapes of parameters have no default here: a configuration without them was not written for a
//! Gemma, and a guess would surface later as a shape that does not fit.

mod activation;
mod error;
mod generation;
mod json;
mod named;

use std::path::Path;

pub use activation::Activation;
pub use error::ConfigError;
pub use generation::{GenerationConfig, IgnoredKey};
use json::Object;
pub use named::GEOMETRIES;
use serde_json::Value;

use crate::dtype::DType;

/// The file with the model's configuration.
pub const CONFIG_FILE: &str = "config.json";
/// The file with the defaults of generation, which may be absent.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";
/// The rotary base that Transformers' Flax Gemma uses, whatever the configuration says.
pub const FLAX_ROPE_THETA: f64 = 10_000.0;

/// The largest extent of one dimension: positions and ids are 32-bit integers on the device.
const MAX_SIZE: usize = i32::MAX as usize;
/// The most layers. Far above any model, low enough that a list of every layer's parameters stays
/// small.
pub(crate) const MAX_LAYERS: usize = 4096;
/// The most elements of one parameter, such that its bytes in float32 can be addressed.
const MAX_ELEMENTS: usize = isize::MAX as usize / 4;

/// The geometry and constants of a Gemma. Every size is at least 1, and no product of two sizes
/// that makes a parameter overflows.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    activation: Activation,
    eos_token_ids: Vec<u32>,
    pad_token_id: Option<u32>,
    bos_token_id: Option<u32>,
    torch_dtype: Option<DType>,
}

impl GemmaConfig {
    /// Reads config.json and, where there is one, generation_config.json in `dir`.
    ///
    /// # Errors
    /// A file that cannot be read or is not a JSON object, and a key that is missing, has the wrong
    /// type or has an impossible value.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let file = dir.join(CONFIG_FILE);
        let mut config = Self::from_json(&file, &json::read_text(&file)?)?;
        let file = dir.join(GENERATION_CONFIG_FILE);
        match json::read_text(&file) {
            Ok(text) => config.apply_generation_config(&file, &text)?,
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(config)
    }

    /// Reads the text of a config.json. `file` is the name that errors give it.
    ///
    /// # Errors
    /// As [`GemmaConfig::from_dir`].
    pub fn from_json(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let keys = Object::parse(file, text)?;
        check_model_type(file, &keys)?;
        let vocab_size = keys.required_size("vocab_size", MAX_SIZE)?;
        let num_attention_heads = keys.required_size("num_attention_heads", MAX_SIZE)?;
        let config = GemmaConfig {
            vocab_size,
            hidden_size: keys.required_size("hidden_size", MAX_SIZE)?,
            intermediate_size: keys.required_size("intermediate_size", MAX_SIZE)?,
            num_hidden_layers: keys.required_size("num_hidden_layers", MAX_LAYERS)?,
            num_attention_heads,
            num_key_value_heads: keys
                .size("num_key_value_heads", MAX_SIZE)?
                .unwrap_or(num_attention_heads),
            head_dim: keys.required_size("head_dim", MAX_SIZE)?,
            max_position_embeddings: keys
                .size("max_position_embeddings", MAX_SIZE)?
                .unwrap_or(8192),
            rms_norm_eps: rms_norm_eps(&keys)?,
            rope_theta: rope_theta(&keys)?,
            tie_word_embeddings: keys.boolean("tie_word_embeddings")?.unwrap_or(true),
            attention_bias: keys.boolean("attention_bias")?.unwrap_or(false),
            activation: activation(file, &keys)?,
            eos_token_ids: match keys.token_ids("eos_token_id", vocab_size)? {
                Some(ids) => ids,
                None if keys.has("eos_token_id") || vocab_size <= 1 => Vec::new(),
                None => vec![1],
            },
            pad_token_id: match is_no_padding(&keys) {
                true => None,
                false => default_id(&keys, "pad_token_id", vocab_size, 0)?,
            },
            bos_token_id: default_id(&keys, "bos_token_id", vocab_size, 2)?,
            torch_dtype: dtype_hint(&keys)?,
        };
        config.check_geometry(&keys)?;
        Ok(config)
    }

    /// Lets the text of a generation_config.json override the special tokens: its keys
    /// that exist and are not null override config.json. `file` is the name that errors give it.
    ///
    /// # Errors
    /// As [`GemmaConfig::from_dir`].
    pub fn apply_generation_config(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let keys = Object::parse(file, text)?;
        if let Some(ids) = keys.token_ids("eos_token_id", self.vocab_size)? {
            self.eos_token_ids = ids;
        }
        if is_no_padding(&keys) {
            self.pad_token_id = None;
        } else if let Some(id) = keys.token_id("pad_token_id", self.vocab_size)? {
            self.pad_token_id = Some(id);
        }
        if let Some(id) = keys.token_id("bos_token_id", self.vocab_size)? {
            self.bos_token_id = Some(id);
        }
        Ok(())
    }

    /// Rows of the embedding, columns of the logits.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Width of the MLP between its up and down projections.
    pub fn intermediate_size(&self) -> usize {
        self.intermediate_size
    }

    /// Number of decoder layers.
    pub fn num_hidden_layers(&self) -> usize {
        self.num_hidden_layers
    }

    /// Number of query heads; a multiple of `num_key_value_heads`.
    pub fn num_attention_heads(&self) -> usize {
        self.num_attention_heads
    }

    /// Number of key and value heads. Where the key is absent, the number of query heads, as
    /// Transformers documents it (its class has 16 there, which agrees for the 7B model).
    pub fn num_key_value_heads(&self) -> usize {
        self.num_key_value_heads
    }

    /// Width of one head; even. Not `hidden_size / num_attention_heads` in general.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The most tokens of a sequence, prompt and continuation together (default 8192).
    pub fn max_position_embeddings(&self) -> usize {
        self.max_position_embeddings
    }

    /// Added to the mean of squares in each RMSNorm (default 1e-6).
    pub fn rms_norm_eps(&self) -> f64 {
        self.rms_norm_eps
    }

    /// Base of the rotary angles: pair `i` of a head turns by `position / rope_theta^(2i /
    /// head_dim)` (default 10000).
    pub fn rope_theta(&self) -> f64 {
        self.rope_theta
    }

    /// Whether logits use the embedding transposed (default), and not an `lm_head/kernel` of their
    /// own.
    pub fn tie_word_embeddings(&self) -> bool {
        self.tie_word_embeddings
    }

    /// Whether the q, k, v and o projections have biases (default false).
    pub fn attention_bias(&self) -> bool {
        self.attention_bias
    }

    /// The activation of the MLP's gate: what `hidden_activation` says, else the tanh approximation
    /// of GELU, whatever `hidden_act` says.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The tokens that end a row (default 1), without duplicates; empty where the configuration has
    /// none.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The padding token (default 0); none where the key is null. See [`GemmaConfig::padding_id`].
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad_token_id
    }

    /// The token that begins a text (default 2); none where the key is null.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The dtype that `dtype` or `torch_dtype` names, where it is one of ours. A hint only:
    /// checkpoints carry their own.
    pub fn torch_dtype(&self) -> Option<DType> {
        self.torch_dtype
    }

    /// The same without tokens that end a row. Rows are padded with what pads them otherwise.
    #[must_use]
    pub fn without_eos(mut self) -> Self {
        self.pad_token_id = Some(self.padding_id());
        self.eos_token_ids.clear();
        self
    }

    /// The token that fills rows: `pad_token_id`, else, as Transformers' `generate` does, the first
    /// eos token, else 0.
    pub fn padding_id(&self) -> u32 {
        self.pad_token_id
            .or_else(|| self.eos_token_ids.first().copied())
            .unwrap_or(0)
    }

    /// Columns of the q projection, rows of the o projection: heads × head_dim.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Columns of the k and v projections: key and value heads × head_dim.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Query heads that share one key and value head.
    pub fn queries_per_key_value_head(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Whether Flax would compute other rotary angles than this configuration asks for:
    /// Transformers' Flax Gemma does not read `rope_theta` and always uses [`FLAX_ROPE_THETA`].
    pub fn rope_theta_differs_from_flax(&self) -> bool {
        self.rope_theta != FLAX_ROPE_THETA
    }

    /// Checks conditions on several keys. `keys` gives the values for messages.
    fn check_geometry(&self, keys: &Object) -> Result<(), ConfigError> {
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(keys.bad(
                "num_key_value_heads",
                &Value::from(self.num_key_value_heads),
                format!(
                    "num_attention_heads ({}) must be a multiple of it",
                    self.num_attention_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(keys.bad(
                "head_dim",
                &Value::from(self.head_dim),
                "it must be even, for rotary positions turn pairs",
            ));
        }
        let query_size = self
            .num_attention_heads
            .checked_mul(self.head_dim)
            .filter(|size| *size <= MAX_SIZE)
            .ok_or_else(|| {
                keys.bad(
                    "head_dim",
                    &Value::from(self.head_dim),
                    format!(
                        "num_attention_heads ({}) times it is more than {MAX_SIZE}",
                        self.num_attention_heads
                    ),
                )
            })?;
        for (key, width) in [
            ("vocab_size", self.vocab_size),
            ("intermediate_size", self.intermediate_size),
            ("head_dim", query_size),
        ] {
            if width
                .checked_mul(self.hidden_size)
                .is_none_or(|elements| elements > MAX_ELEMENTS)
            {
                return Err(keys.bad(
                    key,
                    keys.value(key).unwrap_or(&Value::Null),
                    format!(
                        "it makes a parameter of {width} × {} elements, too large to address",
                        self.hidden_size
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn check_model_type(file: &Path, keys: &Object) -> Result<(), ConfigError> {
    match keys.string("model_type")? {
        None => Err(keys.missing("model_type")),
        Some("gemma") => Ok(()),
        Some(later @ ("gemma2" | "gemma3" | "gemma3_text" | "gemma3n" | "gemma3n_text")) => {
            Err(ConfigError::UnsupportedModelType {
                file: file.to_path_buf(),
                found: later.to_owned(),
            })
        }
        Some(other) => Err(ConfigError::UnknownModelType {
            file: file.to_path_buf(),
            found: other.chars().take(64).collect(),
        }),
    }
}

/// Transformers' Flax Gemma obeys `hidden_activation`; without one it takes the tanh approximation
/// and ignores the legacy `hidden_act`.
fn activation(file: &Path, keys: &Object) -> Result<Activation, ConfigError> {
    match keys.string("hidden_activation")? {
        None => Ok(Activation::GeluTanh),
        Some(name) => Activation::from_name(name).ok_or_else(|| ConfigError::UnknownActivation {
            file: file.to_path_buf(),
            found: name.chars().take(64).collect(),
            known: Activation::known_names(),
        }),
    }
}

fn rms_norm_eps(keys: &Object) -> Result<f64, ConfigError> {
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    if eps < 0.0 {
        return Err(keys.bad("rms_norm_eps", &Value::from(eps), "it must not be negative"));
    }
    Ok(eps)
}

/// The base stands in `rope_theta`, or, as Transformers 5 writes it, in `rope_parameters`. Scaled
/// positions, which Flax's Gemma does not have, are refused rather than ignored.
fn rope_theta(keys: &Object) -> Result<f64, ConfigError> {
    let parameters = keys.object("rope_parameters")?;
    for (key, scaling) in [
        ("rope_scaling", keys.object("rope_scaling")?.as_ref()),
        ("rope_parameters", parameters.as_ref()),
    ] {
        let Some(scaling) = scaling else { continue };
        for name in ["rope_type", "type"] {
            if scaling.string(name)?.is_some_and(|kind| kind != "default") {
                return Err(keys.bad(
                    key,
                    keys.value(key).unwrap_or(&Value::Null),
                    "Gemma's positions are not scaled; only the type \"default\" is supported",
                ));
            }
        }
    }
    let nested = match &parameters {
        Some(parameters) => parameters.number("rope_theta")?,
        None => None,
    };
    let theta = keys
        .number("rope_theta")?
        .or(nested)
        .unwrap_or(FLAX_ROPE_THETA);
    if theta < 1.0 {
        return Err(keys.bad("rope_theta", &Value::from(theta), "it must be at least 1"));
    }
    Ok(theta)
}

/// Whether a configuration says by -1, as Llama's do, that there is no padding token.
fn is_no_padding(keys: &Object) -> bool {
    let value = keys.value("pad_token_id").and_then(Value::as_i64);
    value == Some(-1)
}

/// A token id whose absent key means `default`, and whose null means none.
fn default_id(
    keys: &Object,
    key: &'static str,
    vocab_size: usize,
    default: u32,
) -> Result<Option<u32>, ConfigError> {
    Ok(match keys.token_id(key, vocab_size)? {
        Some(id) => Some(id),
        None if keys.has(key) || default as usize >= vocab_size => None,
        None => Some(default),
    })
}

/// Transformers writes `dtype` since 4.56, and `torch_dtype` before.
fn dtype_hint(keys: &Object) -> Result<Option<DType>, ConfigError> {
    let name = match keys.string("dtype")? {
        Some(name) => Some(name),
        None => keys.string("torch_dtype")?,
    };
    Ok(name.and_then(DType::from_numpy_name))
}
