//! A model's geometry and constants, from its config.json and generation_config.json.
//!
//! Keys and defaults are those of `GemmaConfig` in Transformers 4.57, and of `Gemma2Config`,
//! `Gemma3TextConfig` and `Gemma4TextConfig` in Transformers 4 and 5. A multimodal configuration is
//! read for its text model. A key that is not known and that may change what a model computes is an
//! error.

mod activation;
mod checks;
mod defaults;
mod error;
mod gemma4;
mod generation;
mod json;
mod known;
mod layers;
mod named;
mod rope;
mod values;

use std::path::Path;

use crate::dtype::DType;
pub use activation::Activation;
pub use defaults::{GenerationConfig, IgnoredKey};
pub use error::ConfigError;
pub use gemma4::{Experts, PerLayerInputs};
use generation::Defaults;
pub use generation::Generation;
use json::Object;
pub use layers::LayerConfig;
use layers::Sizes;
pub use named::GEOMETRIES;
pub use rope::RopeConfig;

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
    generation: Generation,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    layers: Vec<LayerConfig>,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    per_layer_inputs: Option<PerLayerInputs>,
    experts: Option<Experts>,
    score_cap: Option<f64>,
    logits_cap: Option<f64>,
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
        let whole = Object::parse(file, text)?;
        let (generation, keys) = Generation::of(file, &whole)?;
        known::check(&keys, generation)?;
        if let Some(found) = whole.value("quantization_config")
            && generation != Generation::Gemma1
        {
            return Err(whole.unknown("quantization_config", found, generation.model_type()));
        }
        let defaults = generation.defaults();
        let size = |key, default: fn(&Defaults) -> usize, max| match defaults {
            Some(defaults) => Ok(keys.size(key, max)?.unwrap_or(default(defaults))),
            None => keys.required_size(key, max),
        };
        let vocab_size = size("vocab_size", |d| d.vocab_size, MAX_SIZE)?;
        let num_attention_heads = size("num_attention_heads", |d| d.num_attention_heads, MAX_SIZE)?;
        let num_key_value_heads = match defaults {
            None => keys
                .size("num_key_value_heads", MAX_SIZE)?
                .unwrap_or(num_attention_heads),
            Some(_) => size("num_key_value_heads", |d| d.num_key_value_heads, MAX_SIZE)?,
        };
        let head_dim = size("head_dim", |d| d.head_dim, MAX_SIZE)?;
        let sizes = Sizes {
            head_dim,
            num_key_value_heads,
            intermediate_size: size("intermediate_size", |d| d.intermediate_size, MAX_SIZE)?,
        };
        let count = size("num_hidden_layers", |d| d.num_hidden_layers, MAX_LAYERS)?;
        values::refuse_two_way_attention(&keys, generation)?;
        // The special tokens of a multimodal model may stand beside the text model's object.
        let about = |key| match keys.has(key) {
            true => &keys,
            false => &whole,
        };
        let hidden_size = size("hidden_size", |d| d.hidden_size, MAX_SIZE)?;
        let mut layers = layers::read(&keys, generation, count, sizes)?;
        if generation == Generation::Gemma4 {
            gemma4::apply(&keys, &mut layers)?;
        }
        let config = GemmaConfig {
            generation,
            vocab_size,
            hidden_size,
            intermediate_size: sizes.intermediate_size,
            layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: keys
                .size("max_position_embeddings", MAX_SIZE)?
                .unwrap_or(generation.positions()),
            rms_norm_eps: values::rms_norm_eps(&keys)?,
            tie_word_embeddings: about("tie_word_embeddings")
                .boolean("tie_word_embeddings")?
                .unwrap_or(true),
            attention_bias: keys.boolean("attention_bias")?.unwrap_or(false),
            query_pre_attn_scalar: values::query_pre_attn_scalar(&keys, generation, head_dim)?,
            score_cap: values::score_cap(&keys, generation)?,
            per_layer_inputs: match generation {
                Generation::Gemma4 => gemma4::per_layer_inputs(&keys)?,
                _ => None,
            },
            experts: match generation {
                Generation::Gemma4 => gemma4::experts(&keys)?,
                _ => None,
            },
            logits_cap: values::logits_cap(&keys, generation)?,
            activation: values::activation(file, &keys)?,
            eos_token_ids: match about("eos_token_id").token_ids("eos_token_id", vocab_size)? {
                Some(ids) => ids,
                None if about("eos_token_id").has("eos_token_id") || vocab_size <= 1 => Vec::new(),
                None => vec![1],
            },
            pad_token_id: match values::is_no_padding(about("pad_token_id")) {
                true => None,
                false => values::default_id(about("pad_token_id"), "pad_token_id", vocab_size, 0)?,
            },
            bos_token_id: values::default_id(about("bos_token_id"), "bos_token_id", vocab_size, 2)?,
            torch_dtype: match values::dtype_hint(&keys)? {
                Some(dtype) => Some(dtype),
                None => values::dtype_hint(&whole)?,
            },
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
        if values::is_no_padding(&keys) {
            self.pad_token_id = None;
        } else if let Some(id) = keys.token_id("pad_token_id", self.vocab_size)? {
            self.pad_token_id = Some(id);
        }
        if let Some(id) = keys.token_id("bos_token_id", self.vocab_size)? {
            self.bos_token_id = Some(id);
        }
        Ok(())
    }

    /// The generation of Gemma.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The layers, in order.
    pub fn layers(&self) -> &[LayerConfig] {
        &self.layers
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
        self.layers.len()
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

    /// Scores are divided by the square root of this.
    pub fn query_pre_attn_scalar(&self) -> f64 {
        self.query_pre_attn_scalar
    }

    /// Scores `s` become `c · tanh(s / c)` where there is a cap `c`.
    pub fn attn_logit_softcapping(&self) -> Option<f64> {
        self.score_cap
    }

    /// The same of logits.
    pub fn final_logit_softcapping(&self) -> Option<f64> {
        self.logits_cap
    }

    /// What layers get beside the residual stream, in some members of Gemma 4.
    pub fn per_layer_inputs(&self) -> Option<PerLayerInputs> {
        self.per_layer_inputs
    }

    /// The experts of each layer, in some members of Gemma 4.
    pub fn experts(&self) -> Option<Experts> {
        self.experts
    }

    /// The most tokens of a sequence, prompt and continuation together (default 8192, and 131,072
    /// of Gemma 3).
    pub fn max_position_embeddings(&self) -> usize {
        self.max_position_embeddings
    }

    /// Added to the mean of squares in each RMSNorm (default 1e-6).
    pub fn rms_norm_eps(&self) -> f64 {
        self.rms_norm_eps
    }

    /// Base of the rotary angles of layers without a window (of the last layer where all have one);
    /// Gemma 1 has no other. By default 10000, and 1,000,000 of Gemma 3.
    pub fn rope_theta(&self) -> f64 {
        let full = self.layers.iter().find(|layer| layer.window.is_none());
        let layer = full.or(self.layers.last());
        layer.map_or(FLAX_ROPE_THETA, |layer| layer.rope.base)
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
        self.generation == Generation::Gemma1 && self.rope_theta() != FLAX_ROPE_THETA
    }
}
