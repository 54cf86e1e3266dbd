//! What a model's programs have to read and to compute at least, counted from its geometry.
//!
//! Counts are over all devices of a mesh, and of useful work alone: padding of prompts to their
//! bucket and cache slots that are not filled yet are not in them, so a program that spends time on
//! these shows a lower rate.

use crate::model::{ModelSpec, Role};

/// Bytes of the parameters as they lie on the devices; what several devices hold is counted for
/// each.
pub fn parameter_bytes(spec: &ModelSpec) -> u64 {
    (spec.parameter_bytes() * spec.mesh.devices()) as u64
}

/// Bytes that a decode step of `batch` rows reads with `filled` tokens of each row in the caches:
/// every parameter once on each device, of tables that are only looked up the rows' own vectors;
/// and the filled part of the caches.
pub fn decode_step_bytes(spec: &ModelSpec, batch: usize, filled: f64) -> f64 {
    let devices = spec.mesh.devices() as f64;
    let tied = spec.config.tie_word_embeddings();
    let mut bytes = parameter_bytes(spec) as f64;
    for table in spec.parameters.iter().filter(|p| p.is_looked_up(tied)) {
        bytes -= table.byte_size(spec.mesh) as f64 * devices;
        bytes += (batch * table.row_bytes()) as f64;
    }
    // Keys and values that several devices of the model axis hold are read by each of them.
    let row = spec.filled_cache_bytes(filled) * spec.mesh.model as f64;
    bytes + batch as f64 * row
}

/// Floating-point operations of a prefill of `batch` prompts of `tokens` tokens, a multiplication
/// and an addition counted as two: projections of every token, causal attention of each token over
/// itself and those before it, and the last token's logits. What is of lower order (norms,
/// rotations, softmax, activations) is left out.
pub fn prefill_operations(spec: &ModelSpec, batch: usize, tokens: usize) -> f64 {
    let config = &spec.config;
    let head = [config.vocab_size(), config.hidden_size()];
    let kernels: f64 = spec
        .parameters
        .iter()
        .filter(|p| p.role == Role::Kernel && p.name.starts_with("model/"))
        .map(|p| p.elements() as f64)
        .sum();
    let head: f64 = head.iter().map(|&dim| dim as f64).product();
    // A query and a key are multiplied to a score, and the score with a value.
    let layers = spec.gemma.spec().layers.iter();
    let attention = layers.map(|layer| {
        let attention = &layer.attention;
        4.0 * pairs(tokens, attention.window) * attention.queries.size() as f64
    });
    let attention: f64 = attention.sum();
    batch as f64 * (2.0 * kernels * tokens as f64 + attention + 2.0 * head)
}

/// Pairs of a query and a key that it sees, of a prompt of `tokens`.
fn pairs(tokens: usize, window: Option<usize>) -> f64 {
    let full = |tokens: usize| tokens as f64 * (tokens as f64 + 1.0) / 2.0;
    match window.filter(|&window| window < tokens) {
        None => full(tokens),
        Some(window) => full(window) + ((tokens - window) * window) as f64,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::GemmaConfig;
    use crate::dtype::DType;
    use crate::model::Xla;
    use crate::sharding::Mesh;

    fn spec(text: &str, mesh: Mesh) -> ModelSpec {
        let config = GemmaConfig::from_json(Path::new("config.json"), text).expect("a config");
        ModelSpec::new(config, DType::BF16, Xla::CPU, mesh, |_| DType::BF16)
            .expect("it can be split")
    }

    fn gemma_2b(tied: bool) -> String {
        format!(
            r#"{{"model_type": "gemma", "vocab_size": 256000, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "hidden_act": "gelu", "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0,
            "tie_word_embeddings": {tied}}}"#
        )
    }

    /// Of Gemma 2B's 2,506,172,416 parameters, 18 · 110,100,480 are kernels.
    const KERNELS: f64 = 18.0 * 110_100_480.0;
    const HEAD: f64 = 2048.0 * 256_000.0;

    #[test]
    fn a_step_of_gemma_2b_reads_its_parameters_and_the_filled_cache() {
        let spec = spec(&gemma_2b(true), Mesh::SINGLE);
        assert_eq!(parameter_bytes(&spec), 2 * 2_506_172_416);
        let empty = decode_step_bytes(&spec, 1, 0.0);
        assert_eq!(empty, 2.0 * 2_506_172_416.0);
        // 18 layers, a key and a value of 256 numbers of two bytes each.
        let token = 18.0 * 2.0 * 256.0 * 2.0;
        let found = decode_step_bytes(&spec, 8, 100.0);
        assert_eq!(found - empty, 8.0 * 100.0 * token);
    }

    #[test]
    fn an_embedding_that_is_only_looked_up_is_not_read_whole() {
        let tied = decode_step_bytes(&spec(&gemma_2b(true), Mesh::SINGLE), 3, 7.0);
        let untied = decode_step_bytes(&spec(&gemma_2b(false), Mesh::SINGLE), 3, 7.0);
        assert_eq!(untied - tied, 3.0 * 2048.0 * 2.0);
    }

    #[test]
    fn what_every_device_holds_is_read_by_every_device() {
        let one = spec(&gemma_2b(true), Mesh::SINGLE);
        let two = spec(&gemma_2b(true), "data=1,model=2".parse().expect("a mesh"));
        // The one key and value head, and the norms.
        let copied = (18 * 2 * 2048 * 256 + 37 * 2048) as f64 * 2.0;
        let found = decode_step_bytes(&two, 1, 0.0) - decode_step_bytes(&one, 1, 0.0);
        assert_eq!(found, copied);
    }

    #[test]
    fn a_prefill_computes_projections_causal_attention_and_one_row_of_logits() {
        let spec = spec(&gemma_2b(true), Mesh::SINGLE);
        let one = prefill_operations(&spec, 1, 1);
        let attention = 4.0 * 18.0 * 2048.0;
        assert_eq!(one, 2.0 * KERNELS + attention + 2.0 * HEAD);
        let found = prefill_operations(&spec, 8, 4);
        let expected = 8.0 * (4.0 * 2.0 * KERNELS + 10.0 * attention + 2.0 * HEAD);
        assert_eq!(found, expected);
    }
}
