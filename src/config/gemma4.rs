//! What Gemma 4 has beyond Gemma 3: other sizes in layers without a window, shared caches,
//! per-layer inputs and experts.

use serde_json::Value;

use super::json::Object;
use super::layers::LayerConfig;
use super::{ConfigError, MAX_LAYERS, MAX_SIZE};

/// Inputs that every layer gets beside the residual stream, computed from the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerLayerInputs {
    /// Numbers of a layer's input.
    pub size: usize,
    /// Rows of their table of embeddings.
    pub vocab_size: usize,
}

/// Experts beside the MLP of every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many of them a token uses.
    pub used: usize,
    /// Width of an expert between its up and down projections.
    pub intermediate_size: usize,
}

/// The most experts of a token: they are chosen one after the other.
const MOST_USED: usize = 64;

/// Changes layers as Gemma 4's keys say.
pub(super) fn apply(keys: &Object<'_>, layers: &mut [LayerConfig]) -> Result<(), ConfigError> {
    let keys_as_values = keys.boolean("attention_k_eq_v")?.unwrap_or(false);
    // A configuration that Transformers 5 has saved lists the layers instead.
    let per_layer = keys.object("per_layer_config")?;
    let head_dim = keys.size("global_head_dim", MAX_SIZE)?;
    let heads = keys.size("num_global_key_value_heads", MAX_SIZE)?;
    for layer in layers.iter_mut().filter(|layer| layer.window.is_none()) {
        layer.keys_as_values = keys_as_values;
        if per_layer.is_none() {
            layer.head_dim = head_dim.unwrap_or(512);
            if let Some(heads) = heads.filter(|_| keys_as_values) {
                layer.num_key_value_heads = heads;
            }
        }
    }
    if let Some(per_layer) = &per_layer {
        listed(per_layer, layers)?;
    }
    share(keys, layers)
}

/// Applies the sizes that are listed by the number of the layer.
fn listed(per_layer: &Object<'_>, layers: &mut [LayerConfig]) -> Result<(), ConfigError> {
    let count = layers.len();
    for number in per_layer.names() {
        let Some(sizes) = per_layer.object(number)? else {
            continue;
        };
        let layer = number.parse::<usize>().ok();
        let Some(layer) = layer.and_then(|number| layers.get_mut(number)) else {
            let value = per_layer.value(number).unwrap_or(&Value::Null);
            let reason = format!("there are {count} layers, numbered from 0");
            return Err(per_layer.bad(number, value, reason));
        };
        for name in sizes.names() {
            let known = ["head_dim", "num_key_value_heads", "intermediate_size"];
            if let Some(value) = sizes.value(name)
                && !known.contains(&name)
            {
                return Err(sizes.unknown(name, value, "gemma4_text"));
            }
        }
        let size = |key, default| Ok(sizes.size(key, MAX_SIZE)?.unwrap_or(default));
        layer.head_dim = size("head_dim", layer.head_dim)?;
        layer.num_key_value_heads = size("num_key_value_heads", layer.num_key_value_heads)?;
        layer.intermediate_size = size("intermediate_size", layer.intermediate_size)?;
    }
    Ok(())
}

/// The last layers use the cache of the last layer of their own kind that has one.
fn share(keys: &Object<'_>, layers: &mut [LayerConfig]) -> Result<(), ConfigError> {
    let key = "num_kv_shared_layers";
    let shared = zero_or_more(keys, key, MAX_LAYERS)?.unwrap_or(0);
    let wide = keys.boolean("use_double_wide_mlp")?.unwrap_or(false);
    let value = keys.value(key).unwrap_or(&Value::Null);
    let Some(first) = layers.len().checked_sub(shared).filter(|first| *first > 0) else {
        let reason = format!("it must be less than num_hidden_layers ({})", layers.len());
        return Err(keys.bad(key, value, reason));
    };
    let (own, sharing) = layers.split_at_mut(first);
    for layer in sharing {
        let same = |other: &LayerConfig| {
            other.window == layer.window
                && other.head_dim == layer.head_dim
                && other.num_key_value_heads == layer.num_key_value_heads
        };
        let Some(of) = own.iter().rposition(same) else {
            let reason = "a layer that shares has no layer before it with its window and heads";
            return Err(keys.bad(key, value, reason));
        };
        layer.shared_cache = Some(of);
        if wide {
            let width = layer.intermediate_size.checked_mul(2);
            let Some(width) = width.filter(|width| *width <= MAX_SIZE) else {
                let value = Value::from(layer.intermediate_size);
                return Err(keys.bad("intermediate_size", &value, "twice of it is too large"));
            };
            layer.intermediate_size = width;
        }
    }
    Ok(())
}

/// A whole number that may be 0.
fn zero_or_more(keys: &Object<'_>, key: &str, max: usize) -> Result<Option<usize>, ConfigError> {
    match keys.value(key).and_then(Value::as_u64) {
        Some(0) => Ok(Some(0)),
        _ => keys.size(key, max),
    }
}

/// The inputs of layers, where the model has any.
pub(super) fn per_layer_inputs(keys: &Object<'_>) -> Result<Option<PerLayerInputs>, ConfigError> {
    let key = "hidden_size_per_layer_input";
    let size = match zero_or_more(keys, key, MAX_SIZE)? {
        Some(0) => return Ok(None),
        Some(size) => size,
        None if keys.has(key) => return Ok(None),
        None => 256,
    };
    let vocab_size = keys.size("vocab_size_per_layer_input", MAX_SIZE)?;
    Ok(Some(PerLayerInputs {
        size,
        vocab_size: vocab_size.unwrap_or(262_144),
    }))
}

/// The experts, where the model has any.
pub(super) fn experts(keys: &Object<'_>) -> Result<Option<Experts>, ConfigError> {
    if !keys.boolean("enable_moe_block")?.unwrap_or(false) {
        return Ok(None);
    }
    let required = |key| keys.required_size(key, MAX_SIZE);
    let experts = Experts {
        count: required("num_experts")?,
        used: required("top_k_experts")?,
        intermediate_size: required("moe_intermediate_size")?,
    };
    let most = experts.count.min(MOST_USED);
    if experts.used > most {
        let value = Value::from(experts.used);
        return Err(keys.bad(
            "top_k_experts",
            &value,
            format!("it must be from 1 to {most}"),
        ));
    }
    Ok(Some(experts))
}
