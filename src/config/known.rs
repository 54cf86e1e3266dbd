//! The keys that may stand in a configuration without being read.

use serde_json::Value;

use super::json::Object;
use super::{ConfigError, Generation};

/// What is read here or in the modules beside this one.
const READ: [&str; 33] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "hidden_activation",
    "eos_token_id",
    "pad_token_id",
    "bos_token_id",
    "dtype",
    "torch_dtype",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "sliding_window",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "layer_types",
    "rope_theta",
    "rope_local_base_freq",
    "rope_scaling",
    "rope_parameters",
    "use_bidirectional_attention",
    "text_config",
    "vision_config",
    "audio_config",
];

/// What is read of Gemma 4 beyond that.
const READ_OF_GEMMA_4: [&str; 12] = [
    "attention_k_eq_v",
    "per_layer_config",
    "global_head_dim",
    "num_global_key_value_heads",
    "num_kv_shared_layers",
    "use_double_wide_mlp",
    "hidden_size_per_layer_input",
    "vocab_size_per_layer_input",
    "enable_moe_block",
    "num_experts",
    "top_k_experts",
    "moe_intermediate_size",
];

/// What changes training, generation or a library's own behaviour, and no logits.
const WITHOUT_EFFECT: [&str; 51] = [
    "architectures",
    "transformers_version",
    "name_or_path",
    "auto_map",
    "use_cache",
    "cache_implementation",
    "attn_implementation",
    "initializer_range",
    "attention_dropout",
    // Superseded by `hidden_activation`.
    "hidden_act",
    "use_bfloat16",
    "torchscript",
    "return_dict",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "chunk_size_feed_forward",
    "pruned_heads",
    "tie_encoder_decoder",
    "tokenizer_class",
    "prefix",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "id2label",
    "label2id",
    "num_labels",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "suppress_tokens",
    "begin_suppress_tokens",
    "remove_invalid_values",
];

/// Refuses a key of a text model that is not known and that is set: the model would be computed
/// without what it asks for. Gemma 1's configurations, which Flax's class reads by the names that
/// it knows and no others, are not checked.
pub(super) fn check(keys: &Object<'_>, generation: Generation) -> Result<(), ConfigError> {
    if generation == Generation::Gemma1 {
        return Ok(());
    }
    for name in keys.names() {
        let Some(value) = keys.value(name) else {
            continue;
        };
        let known = READ.contains(&name)
            || WITHOUT_EFFECT.contains(&name)
            || (generation == Generation::Gemma4 && READ_OF_GEMMA_4.contains(&name))
            // Private notes of a library, ids of tokens for other parts of a multimodal model, and
            // notes of tools that changed weights.
            || name.starts_with('_')
            || name.starts_with("unsloth_")
            || ["_token_id", "_token_index", "_token_ids", "_tokens_per_image"]
                .iter()
                .any(|end| name.ends_with(end));
        if !known && *value != Value::Bool(false) {
            return Err(keys.unknown(name, value, generation.model_type()));
        }
    }
    Ok(())
}
