//! Conditions on several keys of a configuration.

use serde_json::Value;

use super::json::Object;
use super::layers::LayerConfig;
use super::{ConfigError, GemmaConfig, MAX_ELEMENTS, MAX_SIZE};

impl GemmaConfig {
    /// Checks conditions on several keys. `keys` gives the values for messages.
    pub(super) fn check_geometry(&self, keys: &Object) -> Result<(), ConfigError> {
        // The sizes that hold in general come first, and are named by their keys.
        let in_general = LayerConfig {
            head_dim: self.head_dim,
            num_key_value_heads: self.num_key_value_heads,
            intermediate_size: self.intermediate_size,
            ..self.layers[0]
        };
        let mut checked = vec![in_general];
        self.check_sizes(keys, &in_general)?;
        for layer in &self.layers {
            if !checked.contains(layer) {
                self.check_sizes(keys, layer)?;
                checked.push(*layer);
            }
        }
        self.check_product(keys, "vocab_size", self.vocab_size, self.hidden_size)?;
        if let Some(inputs) = self.per_layer_inputs {
            let key = "hidden_size_per_layer_input";
            let all = inputs.size.saturating_mul(self.layers.len());
            self.check_product(keys, key, all, self.hidden_size.max(inputs.vocab_size))?;
        }
        if let Some(experts) = self.experts {
            let all = experts.count.saturating_mul(experts.intermediate_size);
            self.check_product(keys, "num_experts", all, self.hidden_size)?;
        }
        Ok(())
    }

    fn check_sizes(&self, keys: &Object, layer: &LayerConfig) -> Result<(), ConfigError> {
        let heads = self.num_attention_heads;
        if !heads.is_multiple_of(layer.num_key_value_heads) {
            return Err(keys.bad(
                "num_key_value_heads",
                &Value::from(layer.num_key_value_heads),
                format!("num_attention_heads ({heads}) must be a multiple of it"),
            ));
        }
        if !layer.head_dim.is_multiple_of(2) {
            return Err(keys.bad(
                "head_dim",
                &Value::from(layer.head_dim),
                "it must be even, for rotary positions turn pairs",
            ));
        }
        if ((layer.rope.proportion * layer.head_dim as f64) as usize) < 2 {
            return Err(keys.bad(
                "partial_rotary_factor",
                &Value::from(layer.rope.proportion),
                format!("it leaves no pair of a head of {} to turn", layer.head_dim),
            ));
        }
        let query_size = heads
            .checked_mul(layer.head_dim)
            .filter(|size| *size <= MAX_SIZE)
            .ok_or_else(|| {
                keys.bad(
                    "head_dim",
                    &Value::from(layer.head_dim),
                    format!("num_attention_heads ({heads}) times it is more than {MAX_SIZE}"),
                )
            })?;
        for (key, width) in [
            ("intermediate_size", layer.intermediate_size),
            ("head_dim", query_size),
        ] {
            self.check_product(keys, key, width, self.hidden_size)?;
        }
        Ok(())
    }

    /// Checks that a parameter of these dimensions can be addressed.
    fn check_product(
        &self,
        keys: &Object,
        key: &str,
        width: usize,
        other: usize,
    ) -> Result<(), ConfigError> {
        let elements = width.checked_mul(other);
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(keys.bad(
                key,
                keys.value(key).unwrap_or(&Value::Null),
                format!("it makes a parameter of {width} × {other} elements, too large to address"),
            ));
        }
        Ok(())
    }
}
