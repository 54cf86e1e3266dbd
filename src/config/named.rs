//! Geometries that are known by name, so that one can plan for a model without having its files.

use super::GemmaConfig;

/// The names, as [`GemmaConfig::named`] takes them.
pub const GEOMETRIES: [&str; 14] = [
    "gemma-2b",
    "gemma-7b",
    "gemma-2-2b",
    "gemma-2-9b",
    "gemma-2-27b",
    "gemma-3-270m",
    "gemma-3-1b",
    "gemma-3-4b",
    "gemma-3-12b",
    "gemma-3-27b",
    "gemma-4-e2b",
    "gemma-4-e4b",
    "gemma-4-31b",
    "gemma-4-26b-a4b",
];

/// The keys of each model's config.json that are used here, without braces. All are published in
/// bfloat16.
const KEYS: [&str; 14] = [
    r#""model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384,
    "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256"#,
    r#""model_type": "gemma", "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256"#,
    r#""model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256"#,
    r#""model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336,
    "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256"#,
    r#""model_type": "gemma2", "hidden_size": 4608, "intermediate_size": 36864,
    "num_hidden_layers": 46, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
    "query_pre_attn_scalar": 144"#,
    r#""model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640,
    "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
    "max_position_embeddings": 32768"#,
    r#""model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152,
    "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
    "max_position_embeddings": 32768"#,
    r#""model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
    "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
    "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}"#,
    r#""model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360,
    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8,
    "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}"#,
    r#""model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504,
    "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
    "query_pre_attn_scalar": 168, "sliding_window": 1024,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0}"#,
    r#""model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144,
    "num_hidden_layers": 35, "num_attention_heads": 8, "num_key_value_heads": 1,
    "sliding_window_pattern": 5, "final_logit_softcapping": 30.0, "num_kv_shared_layers": 20,
    "use_double_wide_mlp": true"#,
    r#""model_type": "gemma4_text", "hidden_size": 2560, "intermediate_size": 10240,
    "num_hidden_layers": 42, "num_attention_heads": 8, "num_key_value_heads": 2,
    "final_logit_softcapping": 30.0, "num_kv_shared_layers": 18"#,
    r#""model_type": "gemma4_text", "hidden_size": 5376, "intermediate_size": 21504,
    "num_hidden_layers": 60, "num_attention_heads": 32, "num_key_value_heads": 16,
    "sliding_window": 1024, "final_logit_softcapping": 30.0, "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": true, "num_global_key_value_heads": 4, "max_position_embeddings": 262144"#,
    r#""model_type": "gemma4_text", "hidden_size": 2816, "intermediate_size": 2112,
    "num_hidden_layers": 30, "num_attention_heads": 16, "num_key_value_heads": 8,
    "sliding_window": 1024, "final_logit_softcapping": 30.0, "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": true, "num_global_key_value_heads": 2, "max_position_embeddings": 262144,
    "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704"#,
];

impl GemmaConfig {
    /// The configuration of a published model, by one of the names in [`GEOMETRIES`]: of its text
    /// model where it is multimodal.
    pub fn named(name: &str) -> Option<Self> {
        let index = GEOMETRIES.iter().position(|known| *known == name)?;
        let text = format!("{{{}, \"dtype\": \"bfloat16\"}}", KEYS[index]);
        // The texts above are read by the tests.
        Self::from_json(name.as_ref(), &text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters;

    /// Counted from the sizes by a program of its own; those of Gemma 1, 2, and 3 270M and 1B are
    /// what their authors publish.
    const COUNTS: [usize; 14] = [
        2_506_172_416,
        8_537_680_896,
        2_614_341_888,
        9_241_705_984,
        27_227_128_320,
        268_098_176,
        999_885_952,
        3_880_263_168,
        11_766_034_176,
        27_009_346_304,
        4_628_569_379,
        7_463_013_418,
        30_697_345_340,
        25_233_141_790,
    ];

    #[test]
    fn the_named_geometries_have_as_many_parameters_as_the_published_models() {
        for (name, count) in GEOMETRIES.into_iter().zip(COUNTS) {
            let config = GemmaConfig::named(name).expect(name);
            let found: usize = parameters(&config).iter().map(|p| p.elements()).sum();
            assert_eq!(found, count, "{name}");
        }
        assert_eq!(GemmaConfig::named("gemma-3b"), None);
    }
}
