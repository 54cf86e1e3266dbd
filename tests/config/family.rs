//! Gemma 2, 3 and 4: older keys and newer ones, what absent keys mean, and what is refused.

use std::path::Path;

use gemma_xla::config::{ConfigError, GemmaConfig, Generation};
use serde_json::{Map, Value, json};

use super::{FILE, assert_says, refused};

fn read(keys: &Value) -> Result<GemmaConfig, ConfigError> {
    GemmaConfig::from_json(Path::new(FILE), &keys.to_string())
}

fn with(mut keys: Value, changes: Value) -> Value {
    let changes: Map<String, Value> = changes.as_object().unwrap().clone();
    keys.as_object_mut().unwrap().extend(changes);
    keys
}

/// The keys of Gemma 3 1B's config.json that decide what is computed, as it was first published.
fn gemma_3_1b() -> Value {
    json!({
        "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 32_768, "query_pre_attn_scalar": 256, "sliding_window": 512,
        "sliding_window_pattern": 6, "rope_theta": 1_000_000, "rope_local_base_freq": 10_000,
        "rope_scaling": null, "attn_logit_softcapping": null, "final_logit_softcapping": null,
        "eos_token_id": [1, 106], "architectures": ["Gemma3ForCausalLM"], "cache_implementation": "hybrid"
    })
}

/// A multimodal one that relies on the defaults of Transformers' classes, as that of Gemma 3 4B
/// does.
fn gemma_3_4b() -> Value {
    json!({
        "model_type": "gemma3", "eos_token_id": [1, 106], "boi_token_index": 255_999,
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240,
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024
        },
        "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152}
    })
}

fn windows(config: &GemmaConfig) -> Vec<Option<usize>> {
    config.layers().iter().map(|layer| layer.window).collect()
}

#[test]
fn gemma_3_has_five_layers_with_a_window_and_one_without() {
    let config = read(&gemma_3_1b()).unwrap();
    assert_eq!(config.generation(), Generation::Gemma3);
    let full: Vec<usize> = (0..26).filter(|&i| windows(&config)[i].is_none()).collect();
    assert_eq!(full, [5, 11, 17, 23]);
    assert_eq!(windows(&config)[0], Some(512));
    let bases = [0, 5].map(|layer| config.layers()[layer].rope.base);
    assert_eq!(bases, [10_000.0, 1_000_000.0]);
    assert_eq!(config.query_pre_attn_scalar(), 256.0);
    assert_eq!(config.attn_logit_softcapping(), None);
    assert_eq!(config.eos_token_ids(), [1, 106]);
    assert!(!config.rope_theta_differs_from_flax());
}

#[test]
fn newer_keys_say_the_same_as_older_ones() {
    let mut newer = gemma_3_1b();
    let keys = newer.as_object_mut().unwrap();
    for key in [
        "sliding_window_pattern",
        "rope_theta",
        "rope_local_base_freq",
        "rope_scaling",
    ] {
        keys.remove(key);
    }
    let types: Vec<&str> = (1..=26)
        .map(|layer| match layer % 6 {
            0 => "full_attention",
            _ => "sliding_attention",
        })
        .collect();
    let newer = with(
        newer,
        json!({"layer_types": types, "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0}
        }}),
    );
    assert_eq!(read(&newer).unwrap(), read(&gemma_3_1b()).unwrap());
}

#[test]
fn absent_keys_mean_what_transformers_classes_say() {
    let config = read(&gemma_3_4b()).unwrap();
    let sizes = [
        config.vocab_size(),
        config.hidden_size(),
        config.num_hidden_layers(),
        config.num_attention_heads(),
        config.num_key_value_heads(),
        config.head_dim(),
        config.max_position_embeddings(),
    ];
    assert_eq!(sizes, [262_208, 2560, 34, 8, 4, 256, 131_072]);
    assert_eq!(config.eos_token_ids(), [1, 106], "of the model around it");
    assert_eq!(config.torch_dtype().map(|dtype| dtype.size()), Some(2));
    let scaled: Vec<f64> = config.layers()[4..6]
        .iter()
        .map(|layer| layer.rope.factor)
        .collect();
    assert_eq!(scaled, [1.0, 8.0], "positions of layers without a window");

    let config = read(&json!({"model_type": "gemma2"})).unwrap();
    assert_eq!(windows(&config)[..3], [Some(4096), None, Some(4096)]);
    let caps = (
        config.attn_logit_softcapping(),
        config.final_logit_softcapping(),
    );
    assert_eq!(caps, (Some(50.0), Some(30.0)));
    let config = read(&json!({"model_type": "gemma2", "attn_logit_softcapping": null})).unwrap();
    assert_eq!(config.attn_logit_softcapping(), None);
}

#[test]
fn impossible_values_name_their_keys() {
    let all_full = vec!["full_attention"; 26];
    let mut unknown_type = all_full.clone();
    unknown_type[3] = "chunked_attention";
    for (changes, words) in [
        (
            json!({"layer_types": unknown_type}),
            "\"layer_types\" is \"chunked_attention\": unknown layer type",
        ),
        (
            json!({"layer_types": all_full[1..]}),
            "it has 25 entries for num_hidden_layers = 26",
        ),
        (
            json!({"layer_types": "full_attention"}),
            "key \"layer_types\": expected a list",
        ),
        (
            json!({"sliding_window": 0}),
            "key \"sliding_window\" is 0: it must be from 1",
        ),
        (
            json!({"sliding_window": null}),
            "key \"sliding_window\" is missing",
        ),
        (
            json!({"sliding_window_pattern": 0}),
            "key \"sliding_window_pattern\" is 0",
        ),
        (
            json!({"_sliding_window_pattern": 5}),
            "_sliding_window_pattern is 5",
        ),
        (
            json!({"query_pre_attn_scalar": 0}),
            "key \"query_pre_attn_scalar\" is 0",
        ),
        (
            json!({"final_logit_softcapping": -30}),
            "key \"final_logit_softcapping\" is -30",
        ),
        (
            json!({"attn_logit_softcapping": 50}),
            "Gemma 3 and 4 have no cap on scores",
        ),
        (
            json!({"rope_local_base_freq": 0.5}),
            "key \"rope_local_base_freq\" is 0.5",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn"}}),
            "key \"rope_scaling.rope_type\" is \"yarn\"",
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear"}}),
            "key \"rope_scaling.factor\" is missing",
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}),
            "key \"rope_scaling.factor\" is 0",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2, "beta": 1}}),
            "key \"rope_scaling.beta\" is 1",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e4}}),
            "key \"rope_parameters.rope_theta\"",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 0}}}),
            "key \"rope_parameters.full_attention.rope_theta\" is 0",
        ),
        (
            json!({"use_bidirectional_attention": true}),
            "only causal attention",
        ),
        (
            json!({"quantization_config": {"bits": 4}}),
            "key \"quantization_config\" is {",
        ),
        (
            json!({"num_experts": 8}),
            "key \"num_experts\" is 8: not known for model_type \"gemma3_text\"",
        ),
    ] {
        assert_says(&refused(read(&with(gemma_3_1b(), changes))), words);
    }
    let nested = with(
        gemma_3_4b(),
        json!({"text_config": {"model_type": "gemma3_text", "sliding_window": 0}}),
    );
    assert_says(
        &refused(read(&nested)),
        "key \"text_config.sliding_window\" is 0",
    );
    let other = with(
        gemma_3_4b(),
        json!({"text_config": {"model_type": "gemma2"}}),
    );
    assert_says(&refused(read(&other)), "another generation");
    let other = with(gemma_3_4b(), json!({"quantization_config": {}}));
    assert_says(&refused(read(&other)), "quantization_config");
}

#[test]
fn keys_of_libraries_and_switches_that_are_off_are_accepted() {
    let changes = json!({
        "_name_or_path": "x", "transformers_version": "4.50.0", "use_cache": true, "image_token_index": 5,
        "some_new_switch": false, "some_new_size": null, "unsloth_fixed": true
    });
    read(&with(gemma_3_1b(), changes)).unwrap();
}

/// Gemma 4 E2B, as its geometry is known.
fn gemma_4_e2b() -> Value {
    json!({
        "model_type": "gemma4", "eos_token_id": [1, 106],
        "text_config": {
            "model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144,
            "num_hidden_layers": 35, "num_attention_heads": 8, "num_key_value_heads": 1,
            "layer_types": (0..35).map(|i| if i % 5 == 4 { "full_attention" } else { "sliding_attention" }).collect::<Vec<_>>(),
            "sliding_window": 512, "final_logit_softcapping": 30.0, "num_kv_shared_layers": 20,
            "use_double_wide_mlp": true, "global_head_dim": 512, "use_bidirectional_attention": "vision"
        }
    })
}

fn with_text(mut keys: Value, changes: Value) -> Value {
    keys["text_config"] = with(keys["text_config"].clone(), changes);
    keys
}

#[test]
fn gemma_4_shares_caches_among_the_last_layers_and_has_wider_heads_without_a_window() {
    let config = read(&gemma_4_e2b()).unwrap();
    let layers = config.layers();
    let shared: Vec<_> = layers[14..20]
        .iter()
        .map(|layer| layer.shared_cache)
        .collect();
    assert_eq!(
        shared,
        [None, Some(13), Some(13), Some(13), Some(13), Some(14)]
    );
    assert_eq!([layers[13].head_dim, layers[14].head_dim], [256, 512]);
    assert_eq!(
        [layers[14].intermediate_size, layers[15].intermediate_size],
        [6144, 12_288]
    );
    assert_eq!(config.query_pre_attn_scalar(), 1.0);
    let proportions = [13, 14].map(|layer| layers[layer].rope.proportion);
    assert_eq!(proportions, [1.0, 0.25]);
    let inputs = config.per_layer_inputs().unwrap();
    assert_eq!((inputs.size, inputs.vocab_size), (256, 262_144));
    assert_eq!(config.experts(), None);
}

#[test]
fn sizes_by_layer_win_over_those_of_layers_without_a_window() {
    let listed = json!({"per_layer_config": {"4": {"head_dim": 128, "num_key_value_heads": 2}}, "num_kv_shared_layers": 0});
    let config = read(&with_text(gemma_4_e2b(), listed)).unwrap();
    let heads = [3, 4, 9].map(|layer| {
        (
            config.layers()[layer].head_dim,
            config.layers()[layer].num_key_value_heads,
        )
    });
    assert_eq!(heads, [(256, 1), (128, 2), (256, 1)]);
}

#[test]
fn impossible_values_of_gemma_4_name_their_keys() {
    let experts = |changes: Value| {
        with(
            json!({"enable_moe_block": true, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}),
            changes,
        )
    };
    for (changes, words) in [
        (
            json!({"num_kv_shared_layers": 35}),
            "\"text_config.num_kv_shared_layers\" is 35: it must be less than",
        ),
        (
            json!({"num_kv_shared_layers": 99}),
            "it must be less than num_hidden_layers (35)",
        ),
        (
            json!({"num_kv_shared_layers": 31}),
            "a layer that shares has no layer before it",
        ),
        (
            experts(json!({"top_k_experts": 9})),
            "\"text_config.top_k_experts\" is 9: it must be from 1 to 8",
        ),
        (
            experts(json!({"num_experts": null})),
            "num_experts\" is missing",
        ),
        (
            json!({"per_layer_config": {"35": {"head_dim": 64}}}),
            "there are 35 layers",
        ),
        (
            json!({"per_layer_config": {"4": {"window": 64}}}),
            "per_layer_config.4.window\" is 64",
        ),
        (
            json!({"global_head_dim": 255}),
            "head_dim\" is 255: it must be even",
        ),
        (
            json!({"use_bidirectional_attention": "all"}),
            "only causal attention",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 1.5}}}),
            "partial_rotary_factor\" is 1.5",
        ),
    ] {
        assert_says(&refused(read(&with_text(gemma_4_e2b(), changes))), words);
    }
}
