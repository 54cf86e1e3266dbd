//! Geometries that are known by name, so that one can plan for a model without having its files.

use super::GemmaConfig;

/// The names, as [`GemmaConfig::named`] takes them.
pub const GEOMETRIES: [&str; 2] = ["gemma-2b", "gemma-7b"];

/// The keys of google/gemma-2b's config.json that are used here.
const GEMMA_2B: &str = r#"{
    "model_type": "gemma", "torch_dtype": "bfloat16",
    "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192
}"#;

/// The same for google/gemma-7b.
const GEMMA_7B: &str = r#"{
    "model_type": "gemma", "torch_dtype": "bfloat16",
    "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192
}"#;

impl GemmaConfig {
    /// The configuration of a published model, by one of the names in [`GEOMETRIES`].
    pub fn named(name: &str) -> Option<Self> {
        let text = match name {
            "gemma-2b" => GEMMA_2B,
            "gemma-7b" => GEMMA_7B,
            _ => return None,
        };
        // The texts above are read by the tests.
        Self::from_json(name.as_ref(), text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters;

    #[test]
    fn the_named_geometries_have_as_many_parameters_as_the_published_models() {
        for (name, count) in GEOMETRIES
            .into_iter()
            .zip([2_506_172_416_usize, 8_537_680_896])
        {
            let config = GemmaConfig::named(name).expect(name);
            let found: usize = parameters(&config).iter().map(|p| p.elements()).sum();
            assert_eq!(found, count, "{name}");
        }
        assert_eq!(GemmaConfig::named("gemma-3b"), None);
    }
}
