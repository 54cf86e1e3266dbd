//! What differs between Gemmas, as data: the sizes and constants of each layer, read from the
//! configuration.

use crate::config::{Activation, GemmaConfig};
use crate::sharding::{Axis, Split};

/// What the modules are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmaSpec {
    /// Rows of the embedding, split over the vocabulary.
    pub vocabulary: Axis,
    /// Width of the residual stream.
    pub hidden: Axis,
    /// Whether logits use the embedding transposed, and not a head of their own.
    pub tied_head: bool,
    /// Added to the mean of squares in each RMSNorm.
    pub norm_epsilon: f64,
    /// Logits become `cap · tanh(logits / cap)`.
    pub logits_cap: Option<f64>,
    /// The kinds of rotary embedding that layers use.
    pub ropes: Vec<RopeSpec>,
    /// The layers, in order.
    pub layers: Vec<LayerSpec>,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Where its norms stand.
    pub norms: Norms,
    /// Its attention.
    pub attention: AttentionSpec,
    /// Its MLP.
    pub mlp: MlpSpec,
}

/// The norms around a layer's attention and MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// One before each, as in Gemma 1.
    Before,
    /// One before and one after each, the latter on the branch before it is added, as in Gemma 2
    /// and 3.
    Around,
}

/// Attention of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads, with elements of `head_dim`.
    pub queries: Axis,
    /// Key and value heads, with elements of `head_dim`.
    pub key_values: Axis,
    /// Width of a head.
    pub head_dim: usize,
    /// Scores are divided by the square root of this.
    pub score_divisor_squared: f64,
    /// Scores become `cap · tanh(score / cap)` after that.
    pub score_cap: Option<f64>,
    /// A token sees itself and so many less one before it; all before it where there is no window.
    pub window: Option<usize>,
    /// Whether queries and keys are normalised, each head by itself, before they are rotated.
    pub head_norms: bool,
    /// Whether the projections have biases.
    pub bias: bool,
    /// Which of [`GemmaSpec::ropes`] rotates queries and keys.
    pub rope: usize,
}

/// The MLP of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpSpec {
    /// Width between its up and down projections.
    pub inner: Axis,
    /// The activation of its gate.
    pub activation: Activation,
}

/// A rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// Width of the heads that it rotates.
    pub head_dim: usize,
    /// Pair i turns by `position / base^(2i / head_dim)`.
    pub base: f64,
}

impl GemmaSpec {
    /// What a configuration says.
    pub fn new(config: &GemmaConfig) -> Self {
        let head_dim = config.head_dim();
        let heads = |over, key, units, split| Axis {
            over,
            key,
            units,
            unit: head_dim,
            split,
        };
        let padded = |over, key, units| Axis {
            split: Split::Padded,
            ..Axis::whole(over, key, units)
        };
        let layer = LayerSpec {
            norms: Norms::Before,
            attention: AttentionSpec {
                queries: heads(
                    "query heads",
                    "num_attention_heads",
                    config.num_attention_heads(),
                    Split::Even,
                ),
                key_values: heads(
                    "key and value heads",
                    "num_key_value_heads",
                    config.num_key_value_heads(),
                    Split::Shared,
                ),
                head_dim,
                score_divisor_squared: head_dim as f64,
                score_cap: None,
                window: None,
                head_norms: false,
                bias: config.attention_bias(),
                rope: 0,
            },
            mlp: MlpSpec {
                inner: padded(
                    "MLP columns",
                    "intermediate_size",
                    config.intermediate_size(),
                ),
                activation: config.activation(),
            },
        };
        Self {
            vocabulary: padded("vocabulary", "vocab_size", config.vocab_size()),
            hidden: Axis::whole("width", "hidden_size", config.hidden_size()),
            tied_head: config.tie_word_embeddings(),
            norm_epsilon: config.rms_norm_eps(),
            logits_cap: None,
            ropes: vec![RopeSpec {
                head_dim,
                base: config.rope_theta(),
            }],
            layers: vec![layer; config.num_hidden_layers()],
        }
    }

    /// Models of one layer that have all parameters that a generation of Gemma can have: what is
    /// known of their names.
    pub(super) fn archetypes() -> [Self; 2] {
        let axis = |key| Axis::whole(key, key, 1);
        let layer = |norms| LayerSpec {
            norms,
            attention: AttentionSpec {
                queries: axis("queries"),
                key_values: axis("keys"),
                head_dim: 1,
                score_divisor_squared: 1.0,
                score_cap: None,
                window: None,
                head_norms: norms == Norms::Around,
                bias: true,
                rope: 0,
            },
            mlp: MlpSpec {
                inner: axis("inner"),
                activation: Activation::GeluTanh,
            },
        };
        [Norms::Before, Norms::Around].map(|norms| Self {
            vocabulary: axis("vocabulary"),
            hidden: axis("hidden"),
            tied_head: false,
            norm_epsilon: 0.0,
            logits_cap: None,
            ropes: Vec::new(),
            layers: vec![layer(norms)],
        })
    }
}
