//! What differs between Gemmas, as data: the sizes and constants of each layer, read from the
//! configuration.

use crate::config::{Activation, GemmaConfig, Generation, LayerConfig};
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
    /// Its norms.
    pub norm: NormSpec,
    /// Logits become `cap · tanh(logits / cap)`.
    pub logits_cap: Option<f64>,
    /// The kinds of rotary embedding that layers use.
    pub ropes: Vec<RopeSpec>,
    /// What layers get beside the residual stream.
    pub per_layer_inputs: Option<PerLayerSpec>,
    /// The layers, in order.
    pub layers: Vec<LayerSpec>,
}

/// How RMSNorms are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Added to the mean of squares.
    pub epsilon: f64,
    /// Where results are rounded.
    pub rounding: NormRounding,
    /// What is added to weights: 1, or 0 in Gemma 4.
    pub offset: f64,
}

/// Where an RMSNorm rounds to 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormRounding {
    /// As Transformers' Flax Gemma: what is normalised, to the compute dtype; `1 + weight`, to the
    /// weight's dtype; and their product.
    AsFlax,
    /// The product alone, to the compute dtype.
    Once,
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
    /// Its experts, whose result is added to the MLP's.
    pub experts: Option<ExpertsSpec>,
    /// The width of its own input beside the residual stream.
    pub own_input: Option<Axis>,
    /// Whether its result is multiplied by a number.
    pub scalar: bool,
}

/// Inputs of layers beside the residual stream, computed from the tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PerLayerSpec {
    /// Rows of their table.
    pub vocabulary: Axis,
    /// Numbers of each layer's input.
    pub size: usize,
    /// Those of all layers, one after the other.
    pub all: Axis,
}

/// Experts of a layer: MLPs of which each token uses a few.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// The experts, split over devices.
    pub experts: Axis,
    /// How many of them a token uses.
    pub used: usize,
    /// Width of each between its up and down projections.
    pub inner: Axis,
    /// The activation of their gates.
    pub activation: Activation,
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
    /// Whether values are normalised likewise, by a norm without weights.
    pub value_norm: bool,
    /// Whether values are the keys before their norm and rotation.
    pub keys_as_values: bool,
    /// Which of the model's caches it uses.
    pub cache: usize,
    /// Whether that is the cache of an earlier layer, so that it has no keys and values of its own.
    pub shares_cache: bool,
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
    /// Pair i turns by `position / factor / base^(2i / head_dim)`.
    pub base: f64,
    /// What positions are divided by.
    pub factor: f64,
    /// How many pairs turn, the first ones.
    pub pairs: usize,
}

impl AttentionSpec {
    /// The slots that the layer's cache has where caches have `length`: no more than its window.
    pub fn cache_slots(&self, length: usize) -> usize {
        self.window.map_or(length, |window| window.min(length))
    }
}

impl GemmaSpec {
    /// What a configuration says.
    pub fn new(config: &GemmaConfig) -> Self {
        let generation = config.generation();
        let first = generation == Generation::Gemma1;
        let (mut ropes, mut caches) = (Vec::new(), Vec::new());
        let layer = |(index, layer): (usize, &LayerConfig)| LayerSpec {
            norms: match first {
                true => Norms::Before,
                false => Norms::Around,
            },
            attention: AttentionSpec {
                queries: Axis {
                    over: "query heads",
                    key: "num_attention_heads",
                    units: config.num_attention_heads(),
                    unit: layer.head_dim,
                    split: Split::Even,
                },
                key_values: Axis {
                    over: "key and value heads",
                    key: "num_key_value_heads",
                    units: layer.num_key_value_heads,
                    unit: layer.head_dim,
                    split: Split::Shared,
                },
                head_dim: layer.head_dim,
                score_divisor_squared: config.query_pre_attn_scalar(),
                score_cap: config.attn_logit_softcapping(),
                window: layer.window,
                head_norms: generation >= Generation::Gemma3,
                value_norm: generation >= Generation::Gemma4,
                keys_as_values: layer.keys_as_values,
                // Caches are numbered by the layers that have one.
                cache: place(&mut caches, layer.shared_cache.unwrap_or(index)),
                shares_cache: layer.shared_cache.is_some(),
                bias: config.attention_bias(),
                rope: place(&mut ropes, RopeSpec::of(layer)),
            },
            mlp: MlpSpec {
                inner: padded("MLP columns", "intermediate_size", layer.intermediate_size),
                activation: config.activation(),
            },
            experts: config.experts().map(|experts| ExpertsSpec {
                experts: Axis {
                    split: Split::Even,
                    ..Axis::whole("experts", "num_experts", experts.count)
                },
                used: experts.used,
                inner: Axis::whole(
                    "columns of an expert",
                    "moe_intermediate_size",
                    experts.intermediate_size,
                ),
                activation: config.activation(),
            }),
            own_input: config
                .per_layer_inputs()
                .map(|inputs| own_input(inputs.size)),
            scalar: generation >= Generation::Gemma4,
        };
        let layers: Vec<_> = config.layers().iter().enumerate().map(layer).collect();
        Self {
            vocabulary: padded("vocabulary", "vocab_size", config.vocab_size()),
            hidden: Axis::whole("width", "hidden_size", config.hidden_size()),
            tied_head: config.tie_word_embeddings(),
            norm: NormSpec {
                epsilon: config.rms_norm_eps(),
                rounding: match first {
                    true => NormRounding::AsFlax,
                    false => NormRounding::Once,
                },
                offset: match generation >= Generation::Gemma4 {
                    true => 0.0,
                    false => 1.0,
                },
            },
            logits_cap: config.final_logit_softcapping(),
            ropes,
            per_layer_inputs: config.per_layer_inputs().map(|inputs| PerLayerSpec {
                vocabulary: padded(
                    "vocabulary of layers' inputs",
                    "vocab_size_per_layer_input",
                    inputs.vocab_size,
                ),
                size: inputs.size,
                all: Axis {
                    units: layers.len(),
                    unit: inputs.size,
                    ..own_input(1)
                },
            }),
            layers,
        }
    }

    /// How many caches there are: those of the layers that share none.
    pub fn caches(&self) -> usize {
        let own = self
            .layers
            .iter()
            .filter(|layer| !layer.attention.shares_cache);
        own.count()
    }

    /// The windows that layers have, each once, in the order of the layers: what distinguishes the
    /// masks of a pass.
    pub fn windows(&self) -> Vec<Option<usize>> {
        let mut windows = Vec::new();
        for layer in &self.layers {
            if !windows.contains(&layer.attention.window) {
                windows.push(layer.attention.window);
            }
        }
        windows
    }

    /// Models of one layer that have all parameters that a generation of Gemma can have: what is
    /// known of their names.
    pub(super) fn archetypes() -> [Self; 4] {
        let axis = |key| Axis::whole(key, key, 1);
        let mlp = MlpSpec {
            inner: axis("inner"),
            activation: Activation::GeluTanh,
        };
        let experts = ExpertsSpec {
            experts: axis("experts"),
            used: 1,
            inner: axis("inner"),
            activation: Activation::GeluTanh,
        };
        let model = |norms, gemma4: bool, experts: Option<ExpertsSpec>| Self {
            vocabulary: axis("vocabulary"),
            hidden: axis("hidden"),
            tied_head: false,
            norm: NormSpec {
                epsilon: 0.0,
                rounding: NormRounding::Once,
                offset: 0.0,
            },
            logits_cap: None,
            ropes: Vec::new(),
            per_layer_inputs: gemma4.then(|| PerLayerSpec {
                vocabulary: axis("inputs"),
                size: 1,
                all: own_input(1),
            }),
            layers: vec![LayerSpec {
                norms,
                attention: AttentionSpec {
                    queries: axis("queries"),
                    key_values: axis("keys"),
                    head_dim: 1,
                    score_divisor_squared: 1.0,
                    score_cap: None,
                    window: None,
                    head_norms: norms == Norms::Around,
                    value_norm: false,
                    keys_as_values: false,
                    cache: 0,
                    shares_cache: false,
                    bias: true,
                    rope: 0,
                },
                mlp: mlp.clone(),
                experts,
                own_input: gemma4.then(|| own_input(1)),
                scalar: gemma4,
            }],
        };
        [
            model(Norms::Before, false, None),
            model(Norms::Around, false, None),
            model(Norms::Around, true, None),
            model(Norms::Around, true, Some(experts)),
        ]
    }
}

impl RopeSpec {
    fn of(layer: &LayerConfig) -> Self {
        let rope = layer.rope;
        // Rounded down, as Transformers does.
        let pairs = (rope.proportion * layer.head_dim as f64) as usize / 2;
        Self {
            head_dim: layer.head_dim,
            base: rope.base,
            factor: rope.factor,
            pairs,
        }
    }
}

/// Where `item` is among those that are known, which it is added to if it is new.
fn place<T: PartialEq>(known: &mut Vec<T>, item: T) -> usize {
    known
        .iter()
        .position(|other| *other == item)
        .unwrap_or_else(|| {
            known.push(item);
            known.len() - 1
        })
}

fn padded(over: &'static str, key: &'static str, units: usize) -> Axis {
    Axis {
        split: Split::Padded,
        ..Axis::whole(over, key, units)
    }
}

fn own_input(size: usize) -> Axis {
    Axis::whole("input of a layer", "hidden_size_per_layer_input", size)
}
