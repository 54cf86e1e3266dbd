//! Weights under other names and in other layouts than those of Flax's tree.

use gemma_xla::config::GemmaConfig;

use crate::encode::{Form, Leaf, Node, encode};
use crate::samples::Array;

/// The same weights as Transformers' PyTorch models have them.
pub fn pytorch(flax: &[Array]) -> Vec<Array> {
    let stored = |array: &Array| {
        let name = array.name.replace('/', ".");
        match name.strip_suffix(".kernel") {
            Some(projection) => array.transposed().named(format!("{projection}.weight")),
            None => array.clone().named(name.replace(".embedding", ".weight")),
        }
    };
    flax.iter().map(stored).collect()
}

/// How DeepMind's trees vary.
#[derive(Clone, Copy)]
pub struct Tree {
    /// The MLP's arrays lie under a `w` of their own.
    pub flat: bool,
    /// The MLP's first array is [2, F, D].
    pub gating_transposed: bool,
    pub prefix: &'static str,
}

/// The same weights as DeepMind's models have them.
pub fn deepmind(flax: &[Array], config: &GemmaConfig, tree: Tree) -> Vec<Array> {
    let (d, h) = (config.hidden_size(), config.head_dim());
    let (n, k) = (config.num_attention_heads(), config.num_key_value_heads());
    let get = |name: &str| flax.iter().find(|array| array.name == name).unwrap();
    let name = |rest: &str| format!("{}{rest}", tree.prefix);
    let w = if tree.flat { "/w" } else { "" };
    let mut out = vec![
        get("model/embed_tokens/embedding")
            .clone()
            .named(name("embedder/input_embedding")),
        get("model/norm/weight")
            .clone()
            .named(name("final_norm/scale")),
    ];
    for layer in 0..config.num_hidden_layers() {
        let ours = |rest: &str| get(&format!("model/layers/{layer}/{rest}"));
        let theirs = |rest: &str| name(&format!("layer_{layer}/{rest}"));
        let heads = |projection: &str, heads: usize| {
            let kernel = ours(&format!("self_attn/{projection}_proj/kernel"));
            kernel.rearranged(&[d, heads, h], &[1, 0, 2])
        };
        let (query, key, value) = (heads("q", n), heads("k", k), heads("v", k));
        if n == k {
            out.push(Array::stacked(
                theirs("attn/qkv_einsum/w"),
                &[&query, &key, &value],
            ));
        } else {
            out.push(query.named(theirs("attn/q_einsum/w")));
            out.push(Array::stacked(theirs("attn/kv_einsum/w"), &[&key, &value]));
        }
        let output = ours("self_attn/o_proj/kernel").rearranged(&[n, h, d], &[0, 1, 2]);
        out.push(output.named(theirs("attn/attn_vec_einsum/w")));
        let [gate, up] = ["gate", "up"].map(|which| {
            let kernel = ours(&format!("mlp/{which}_proj/kernel"));
            match tree.gating_transposed {
                true => kernel.transposed(),
                false => kernel.clone(),
            }
        });
        out.push(Array::stacked(
            theirs(&format!("mlp/gating_einsum{w}")),
            &[&gate, &up],
        ));
        let down = ours("mlp/down_proj/kernel").clone();
        out.push(down.named(theirs(&format!("mlp/linear{w}"))));
        for (norm, scale) in [
            ("input_layernorm", "pre_attention_norm"),
            ("post_attention_layernorm", "pre_ffw_norm"),
        ] {
            let weight = ours(&format!("{norm}/weight")).clone();
            out.push(weight.named(theirs(&format!("{scale}/scale"))));
        }
    }
    out
}

/// A msgpack file of these arrays, with a map for each part of a name.
pub fn msgpack(arrays: &[Array]) -> Vec<u8> {
    let mut root = Vec::new();
    for array in arrays {
        let mut level = &mut root;
        let mut parts: Vec<&str> = array.name.split('/').collect();
        let last = parts.pop().unwrap();
        for part in parts {
            let at = level
                .iter()
                .position(|(name, _)| name == part)
                .unwrap_or_else(|| {
                    level.push((part.to_owned(), Node::Map(Vec::new())));
                    level.len() - 1
                });
            let (_, Node::Map(children)) = &mut level[at] else {
                panic!("{part} is an array")
            };
            level = children;
        }
        let leaf = Leaf {
            dtype: array.dtype,
            shape: array.shape.clone(),
            bytes: array.bytes.clone(),
            form: Form::Array,
        };
        level.push((last.to_owned(), Node::Leaf(leaf)));
    }
    encode(&Node::Map(root))
}
