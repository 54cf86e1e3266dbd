//! The layers of a configuration: which have a window, and what differs with that.

use serde_json::Value;

use super::json::Object;
use super::rope::{self, RopeConfig};
use super::{ConfigError, Generation, MAX_SIZE};

/// What can differ between the layers of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerConfig {
    /// A token sees itself and so many less one before it; all before it where there is no window.
    pub window: Option<usize>,
    /// Its rotary embedding.
    pub rope: RopeConfig,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Key and value heads, which divide the query heads.
    pub num_key_value_heads: usize,
    /// Width of the MLP between its up and down projections.
    pub intermediate_size: usize,
    /// Whether values are the keys before their norm and rotation, and not a projection of their
    /// own.
    pub keys_as_values: bool,
    /// The earlier layer whose keys and values it uses, which has the same window and heads.
    pub shared_cache: Option<usize>,
}

/// The sizes that hold unless a key says otherwise for some layers.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub head_dim: usize,
    pub num_key_value_heads: usize,
    pub intermediate_size: usize,
}

/// Gemma 3 and 4: of so many layers the last has no window.
const PATTERN: usize = 6;

/// The layers of a model of `count`, before Gemma 4's keys are applied.
pub(super) fn read(
    keys: &Object<'_>,
    generation: Generation,
    count: usize,
    sizes: Sizes,
) -> Result<Vec<LayerConfig>, ConfigError> {
    let ropes = rope::read(keys, generation)?;
    let windowed = windowed(keys, generation, count)?;
    let window = match windowed.contains(&true) {
        true => window(keys, generation)?,
        false => 1,
    };
    let layers = windowed.into_iter().map(|windowed| LayerConfig {
        window: windowed.then_some(window),
        rope: match windowed {
            true => ropes.window,
            false => ropes.full,
        },
        head_dim: sizes.head_dim,
        num_key_value_heads: sizes.num_key_value_heads,
        intermediate_size: sizes.intermediate_size,
        keys_as_values: false,
        shared_cache: None,
    });
    Ok(layers.collect())
}

fn window(keys: &Object<'_>, generation: Generation) -> Result<usize, ConfigError> {
    match keys.size("sliding_window", MAX_SIZE)? {
        Some(window) => Ok(window),
        None if keys.has("sliding_window") => Err(keys.missing("sliding_window")),
        None => Ok(generation.window()),
    }
}

/// Whether each layer has a window.
fn windowed(
    keys: &Object<'_>,
    generation: Generation,
    count: usize,
) -> Result<Vec<bool>, ConfigError> {
    if generation == Generation::Gemma1 {
        return Ok(vec![false; count]);
    }
    if let Some(value) = keys.value("layer_types") {
        return listed(keys, value, count);
    }
    let pattern = match generation {
        Generation::Gemma2 => 2,
        _ => pattern(keys)?,
    };
    let mut windowed: Vec<bool> = (1..=count).map(|layer| layer % pattern != 0).collect();
    if let (Generation::Gemma4, Some(last)) = (generation, windowed.last_mut()) {
        *last = false;
    }
    Ok(windowed)
}

fn listed(keys: &Object<'_>, value: &Value, count: usize) -> Result<Vec<bool>, ConfigError> {
    let key = "layer_types";
    let Some(types) = value.as_array() else {
        return Err(keys.wrong_type(key, "a list of layer types", value));
    };
    if types.len() != count {
        let reason = format!(
            "it has {} entries for num_hidden_layers = {count}",
            types.len()
        );
        return Err(keys.bad(key, value, reason));
    }
    let each = types.iter().map(|kind| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(keys.bad(
            key,
            kind,
            "unknown layer type (known: sliding_attention, full_attention)",
        )),
    });
    each.collect()
}

/// One layer without a window follows so many less one with a window.
fn pattern(keys: &Object<'_>) -> Result<usize, ConfigError> {
    let size = |key| keys.size(key, MAX_SIZE);
    match (
        size("sliding_window_pattern")?,
        size("_sliding_window_pattern")?,
    ) {
        (Some(pattern), None) | (None, Some(pattern)) => Ok(pattern),
        (Some(pattern), Some(other)) if pattern == other => Ok(pattern),
        (Some(pattern), Some(other)) => Err(keys.bad(
            "sliding_window_pattern",
            &Value::from(pattern),
            format!("_sliding_window_pattern is {other}"),
        )),
        (None, None) => Ok(PATTERN),
    }
}
