//! The names and layouts that checkpoints of a Gemma come in, and what they are in Flax's tree.
//!
//! `{i}` is a layer's number. Dots between names count as slashes, and a `params/` or `transformer/` that all names begin with
//! as nothing. The letters are the axes of a tensor: v vocabulary, d width, f width of the MLP, n query heads, k key and value
//! heads, h width of a head, i and o what goes into a projection and what comes out of it. `2 k d h` splits along its first
//! axis into as many tensors as are listed; `d (k h)` is a matrix whose second dimension runs over heads and within them.

/// One stored tensor, and what it is to us.
pub(super) struct Rule {
    /// Its name.
    pub(super) stored: &'static str,
    /// Its axes in the stored order.
    pub(super) axes: &'static str,
    /// The tensors that it is, by Flax's name and with the axes in Flax's order.
    pub(super) ours: &'static [(&'static str, &'static str)],
    /// In which trees.
    pub(super) when: When,
}

/// Names mean different things in a tree with two norms a layer (Gemma 1) and in one with four (Gemma 2 and 3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    TwoNorms,
    FourNorms,
}

use When::{Always, FourNorms, TwoNorms};

const fn rule(
    stored: &'static str,
    axes: &'static str,
    ours: &'static [(&'static str, &'static str)],
    when: When,
) -> Rule {
    Rule {
        stored,
        axes,
        ours,
        when,
    }
}

/// The name that shows which of the two kinds of trees DeepMind's names are from.
pub(super) const FOUR_NORMS_MARK: &str = "layer_{i}/post_attention_norm/scale";
/// DeepMind's name of the embedding, [v, d], which tells d.
pub(super) const DEEPMIND_EMBEDDING: &str = "embedder/input_embedding";

/// Names in Flax's own tree, as Transformers' Flax models have it. Layouts are ours.
#[rustfmt::skip]
pub(super) const FLAX: &[&str] = &[
    "model/embed_tokens/embedding",
    "model/layers/{i}/input_layernorm/weight",
    "model/layers/{i}/post_attention_layernorm/weight",
    "model/layers/{i}/pre_feedforward_layernorm/weight",
    "model/layers/{i}/post_feedforward_layernorm/weight",
    "model/layers/{i}/self_attn/q_proj/kernel",
    "model/layers/{i}/self_attn/k_proj/kernel",
    "model/layers/{i}/self_attn/v_proj/kernel",
    "model/layers/{i}/self_attn/o_proj/kernel",
    "model/layers/{i}/self_attn/q_proj/bias",
    "model/layers/{i}/self_attn/k_proj/bias",
    "model/layers/{i}/self_attn/v_proj/bias",
    "model/layers/{i}/self_attn/o_proj/bias",
    "model/layers/{i}/self_attn/q_norm/weight",
    "model/layers/{i}/self_attn/k_norm/weight",
    "model/layers/{i}/mlp/gate_proj/kernel",
    "model/layers/{i}/mlp/up_proj/kernel",
    "model/layers/{i}/mlp/down_proj/kernel",
    "model/norm/weight",
    "lm_head/kernel",
];

/// Names of Transformers' PyTorch models, which safetensors files have. Norms and biases are as in Flax's tree.
#[rustfmt::skip]
pub(super) const PYTORCH: &[Rule] = &[
    rule("model/embed_tokens/weight",                  "v d", &[("model/embed_tokens/embedding", "v d")], Always),
    rule("model/layers/{i}/self_attn/q_proj/weight",   "o i", &[("model/layers/{i}/self_attn/q_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/self_attn/k_proj/weight",   "o i", &[("model/layers/{i}/self_attn/k_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/self_attn/v_proj/weight",   "o i", &[("model/layers/{i}/self_attn/v_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/self_attn/o_proj/weight",   "o i", &[("model/layers/{i}/self_attn/o_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/mlp/gate_proj/weight",      "o i", &[("model/layers/{i}/mlp/gate_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/mlp/up_proj/weight",        "o i", &[("model/layers/{i}/mlp/up_proj/kernel", "i o")], Always),
    rule("model/layers/{i}/mlp/down_proj/weight",      "o i", &[("model/layers/{i}/mlp/down_proj/kernel", "i o")], Always),
    rule("lm_head/weight",                             "v d", &[("lm_head/kernel", "d v")], Always),
];

/// Names of DeepMind's own Flax models. The flat form of their trees has the MLP's arrays under a `w` of their own. Where two
/// lines have the same name, the first whose axes fit the stored shape holds.
#[rustfmt::skip]
pub(super) const DEEPMIND: &[Rule] = &[
    rule(DEEPMIND_EMBEDDING,                     "v d",     &[("model/embed_tokens/embedding", "v d")], Always),
    rule("layer_{i}/attn/q_einsum/w",            "n d h",   &[("model/layers/{i}/self_attn/q_proj/kernel", "d (n h)")], Always),
    rule("layer_{i}/attn/kv_einsum/w",           "2 k d h", &[("model/layers/{i}/self_attn/k_proj/kernel", "d (k h)"),
                                                              ("model/layers/{i}/self_attn/v_proj/kernel", "d (k h)")], Always),
    rule("layer_{i}/attn/qkv_einsum/w",          "3 n d h", &[("model/layers/{i}/self_attn/q_proj/kernel", "d (n h)"),
                                                              ("model/layers/{i}/self_attn/k_proj/kernel", "d (n h)"),
                                                              ("model/layers/{i}/self_attn/v_proj/kernel", "d (n h)")], Always),
    rule("layer_{i}/attn/attn_vec_einsum/w",     "n h d",   &[("model/layers/{i}/self_attn/o_proj/kernel", "(n h) d")], Always),
    rule("layer_{i}/attn/_query_norm/scale",     "h",       &[("model/layers/{i}/self_attn/q_norm/weight", "h")], Always),
    rule("layer_{i}/attn/_key_norm/scale",       "h",       &[("model/layers/{i}/self_attn/k_norm/weight", "h")], Always),
    rule("layer_{i}/mlp/gating_einsum",          "2 d f",   GATE_UP, Always),
    rule("layer_{i}/mlp/gating_einsum",          "2 f d",   GATE_UP, Always),
    rule("layer_{i}/mlp/gating_einsum/w",        "2 d f",   GATE_UP, Always),
    rule("layer_{i}/mlp/gating_einsum/w",        "2 f d",   GATE_UP, Always),
    rule("layer_{i}/mlp/linear",                 "f d",     &[("model/layers/{i}/mlp/down_proj/kernel", "f d")], Always),
    rule("layer_{i}/mlp/linear/w",               "f d",     &[("model/layers/{i}/mlp/down_proj/kernel", "f d")], Always),
    rule("layer_{i}/pre_attention_norm/scale",   "d",       &[("model/layers/{i}/input_layernorm/weight", "d")], Always),
    rule("layer_{i}/pre_ffw_norm/scale",         "d",       &[("model/layers/{i}/post_attention_layernorm/weight", "d")], TwoNorms),
    rule(FOUR_NORMS_MARK,                        "d",       &[("model/layers/{i}/post_attention_layernorm/weight", "d")], FourNorms),
    rule("layer_{i}/pre_ffw_norm/scale",         "d",       &[("model/layers/{i}/pre_feedforward_layernorm/weight", "d")], FourNorms),
    rule("layer_{i}/post_ffw_norm/scale",        "d",       &[("model/layers/{i}/post_feedforward_layernorm/weight", "d")], FourNorms),
    rule("final_norm/scale",                     "d",       &[("model/norm/weight", "d")], Always),
];

/// The MLP's two kernels, which DeepMind stores in one array.
const GATE_UP: &[(&str, &str)] = &[
    ("model/layers/{i}/mlp/gate_proj/kernel", "d f"),
    ("model/layers/{i}/mlp/up_proj/kernel", "d f"),
];
