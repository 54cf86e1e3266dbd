//! Single values of a configuration: what their keys may say, and what is meant without them.

use std::path::Path;

use serde_json::Value;

use super::json::Object;
use super::{Activation, ConfigError, Generation};
use crate::dtype::DType;

/// Attention that sees later tokens, as models that embed texts have, is not computed. Gemma 1 had
/// no such key.
pub(super) fn refuse_two_way_attention(
    keys: &Object<'_>,
    generation: Generation,
) -> Result<(), ConfigError> {
    let key = "use_bidirectional_attention";
    match keys.value(key) {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(_) if generation == Generation::Gemma1 => Ok(()),
        // Among the tokens of an image.
        Some(Value::String(among)) if among == "vision" => Ok(()),
        Some(found) => Err(keys.bad(key, found, "only causal attention is supported")),
    }
}

/// Gemma 2 and 3 name what scores are divided by the root of; Gemma 1 takes the width of a head.
pub(super) fn query_pre_attn_scalar(
    keys: &Object<'_>,
    generation: Generation,
    head_dim: usize,
) -> Result<f64, ConfigError> {
    let key = "query_pre_attn_scalar";
    match generation {
        Generation::Gemma1 => Ok(head_dim as f64),
        // Its queries are normalised, and not scaled.
        Generation::Gemma4 => Ok(1.0),
        Generation::Gemma2 | Generation::Gemma3 => {
            let scalar = keys.number(key)?.unwrap_or(256.0);
            match scalar >= 1e-6 {
                true => Ok(scalar),
                false => Err(keys.bad(key, &Value::from(scalar), "it must be more than 0")),
            }
        }
    }
}

/// The cap of scores: Gemma 2's own, 50 by default.
pub(super) fn score_cap(
    keys: &Object<'_>,
    generation: Generation,
) -> Result<Option<f64>, ConfigError> {
    let key = "attn_logit_softcapping";
    match generation {
        Generation::Gemma1 => Ok(None),
        Generation::Gemma2 => cap(keys, key, Some(50.0)),
        Generation::Gemma3 | Generation::Gemma4 => match keys.value(key) {
            None => Ok(None),
            // Transformers accepts the key and ignores it.
            Some(found) => Err(keys.bad(key, found, "Gemma 3 and 4 have no cap on scores")),
        },
    }
}

/// The cap of logits: 30 by default in Gemma 2, and none in Gemma 3.
pub(super) fn logits_cap(
    keys: &Object<'_>,
    generation: Generation,
) -> Result<Option<f64>, ConfigError> {
    let key = "final_logit_softcapping";
    match generation {
        Generation::Gemma1 => Ok(None),
        Generation::Gemma2 => cap(keys, key, Some(30.0)),
        Generation::Gemma3 | Generation::Gemma4 => cap(keys, key, None),
    }
}

/// A soft cap; null means none.
fn cap(keys: &Object<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>, ConfigError> {
    match keys.number(key)? {
        None if keys.has(key) => Ok(None),
        None => Ok(default),
        Some(cap) if cap >= 1e-3 => Ok(Some(cap)),
        Some(cap) => Err(keys.bad(key, &Value::from(cap), "it must be at least 0.001")),
    }
}

/// Transformers' Flax Gemma obeys `hidden_activation`; without one it takes the tanh approximation
/// and ignores the legacy `hidden_act`.
pub(super) fn activation(file: &Path, keys: &Object) -> Result<Activation, ConfigError> {
    match keys.string("hidden_activation")? {
        None => Ok(Activation::GeluTanh),
        Some(name) => Activation::from_name(name).ok_or_else(|| ConfigError::UnknownActivation {
            file: file.to_path_buf(),
            found: name.chars().take(64).collect(),
            known: Activation::known_names(),
        }),
    }
}

pub(super) fn rms_norm_eps(keys: &Object) -> Result<f64, ConfigError> {
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    if eps < 0.0 {
        return Err(keys.bad("rms_norm_eps", &Value::from(eps), "it must not be negative"));
    }
    Ok(eps)
}

/// Whether a configuration says by -1, as Llama's do, that there is no padding token.
pub(super) fn is_no_padding(keys: &Object) -> bool {
    let value = keys.value("pad_token_id").and_then(Value::as_i64);
    value == Some(-1)
}

/// A token id whose absent key means `default`, and whose null means none.
pub(super) fn default_id(
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
pub(super) fn dtype_hint(keys: &Object) -> Result<Option<DType>, ConfigError> {
    let name = match keys.string("dtype")? {
        Some(name) => Some(name),
        None => keys.string("torch_dtype")?,
    };
    Ok(name.and_then(DType::from_numpy_name))
}
