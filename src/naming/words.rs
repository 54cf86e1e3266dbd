//! The words: whose names, and what a stored tensor is to a parameter.

use std::fmt;

/// Whose names and layouts stored tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// Those of Transformers' Flax models: `model/layers/0/self_attn/q_proj/kernel`, [in, out].
    Flax,
    /// Those of Transformers' PyTorch models: `model.layers.0.self_attn.q_proj.weight`, [out, in].
    PyTorch,
    /// Those of DeepMind's Flax models: `transformer/layer_0/attn/q_einsum/w`, [heads, in, head].
    DeepMind,
    /// Those of MaxText: `decoder/layers/self_attention/query/kernel`, [in, layers, heads, head].
    MaxText,
    /// No known ones.
    Unknown,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Naming::Flax => "Flax",
            Naming::PyTorch => "PyTorch",
            Naming::DeepMind => "DeepMind",
            Naming::MaxText => "MaxText",
            Naming::Unknown => "unknown",
        })
    }
}

/// A way in which checkpoints store a parameter under another name, or in another layout, than
/// Flax.
///
/// Letters stand for axes: v vocabulary, d width, f width of the MLP, n query heads, k key and
/// value heads, h width of a head, i and o what goes into a projection and what comes out of it, l
/// layers, p width of a layer's own input, e experts, s a single number. A
/// digit is an axis of that size along which several parameters lie. `d (k h)` is a matrix whose
/// second dimension runs over heads and within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAs {
    /// Whose way it is.
    pub naming: Naming,
    /// The stored tensor's name, its parts joined by `/`.
    pub name: String,
    /// Its axes in the stored order, such as `2 k d h`.
    pub axes: &'static str,
    /// The parameter's axes in Flax's order, such as `d (k h)`.
    pub view: &'static str,
    /// Which of the parameters along the numbered axis it is.
    pub part: usize,
}
