//! The HLO text of every program, for small specs: what a change of the lowering really changed.
//!
//! Two layers of a Gemma with sizes that all differ. `cargo insta review` shows and accepts
//! differences.

use gemma_xla::config::GemmaConfig;
use gemma_xla::dtype::DType;
use gemma_xla::engine::ProgramKey;
use gemma_xla::kernel::CpuOps;
use gemma_xla::model::programs::{Decode, Extend, Forward, Prefill};
use gemma_xla::model::{ModelSpec, Ops, Xla};
use gemma_xla::sharding::Mesh;

/// A configuration, as its config.json would have it, with `extra` keys.
fn config(heads: usize, key_value_heads: usize, extra: &str) -> GemmaConfig {
    let text = format!(
        r#"{{"model_type": "gemma", "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": {heads}, "num_key_value_heads": {key_value_heads},
            "head_dim": 8, "max_position_embeddings": 64 {extra}}}"#
    );
    GemmaConfig::from_json("config.json".as_ref(), &text).expect("a configuration")
}

/// Checks all programs of a model against the snapshots of that name.
fn check(name: &str, config: GemmaConfig, compute: DType, ops: impl Ops + 'static, mesh: Mesh) {
    let spec = ModelSpec::new(config, compute, ops, mesh, |_| compute).expect("it divides");
    let (batch, rows, cache) = (3, spec.decode_rows(3), 32);
    let programs = [
        (
            "prefill",
            ProgramKey::Prefill(Prefill {
                batch,
                prompt: 16,
                rows,
                cache,
            }),
        ),
        (
            "extend",
            ProgramKey::Extend(Extend {
                batch,
                chunk: 8,
                rows,
                cache,
                reach: cache,
            }),
        ),
        (
            "decode",
            ProgramKey::Decode(Decode {
                rows,
                cache,
                chunk: 4,
            }),
        ),
        (
            "forward",
            ProgramKey::Forward(Forward { batch, length: 16 }),
        ),
    ];
    for (program, key) in programs {
        let module = key.lower(&spec).expect("it can be lowered");
        insta::assert_snapshot!(
            format!("{name}-{program}"),
            without_metadata(&module.to_text())
        );
    }
}

/// The text without the names of scopes, which have a test of their own.
fn without_metadata(text: &str) -> String {
    let mut plain = String::new();
    for line in text.lines() {
        plain.push_str(line.split(", metadata={").next().unwrap_or_default());
        plain.push('\n');
    }
    plain
}

const BOTH_AXES: Mesh = Mesh { data: 2, model: 2 };

#[test]
fn bfloat16_with_the_kernels_of_a_cpu() {
    check(
        "cpu-kernels-bf16",
        config(4, 1, ""),
        DType::BF16,
        CpuOps,
        Mesh::SINGLE,
    );
}

#[test]
fn float32_with_the_kernels_of_a_cpu_over_both_axes() {
    check(
        "cpu-kernels-f32-mesh",
        config(4, 2, ""),
        DType::F32,
        CpuOps,
        BOTH_AXES,
    );
}

#[test]
fn float32_without_kernels_untied_and_with_biases() {
    let extra = r#", "tie_word_embeddings": false, "attention_bias": true"#;
    check(
        "cpu-f32",
        config(4, 4, extra),
        DType::F32,
        Xla::CPU,
        Mesh::SINGLE,
    );
}

#[test]
fn bfloat16_on_tpus_over_both_axes() {
    check(
        "tpu-bf16-mesh",
        config(4, 2, ""),
        DType::BF16,
        Xla::TPU,
        BOTH_AXES,
    );
}

#[test]
fn float16_on_a_gpu() {
    check(
        "gpu-f16",
        config(4, 2, ""),
        DType::F16,
        Xla::GPU,
        Mesh::SINGLE,
    );
}

#[test]
fn every_instruction_of_a_layer_carries_the_scope_of_its_module() {
    let mesh = Mesh::SINGLE;
    let compute = DType::BF16;
    let spec = ModelSpec::new(config(4, 2, ""), compute, Xla::TPU, mesh, |_| compute);
    let key = ProgramKey::Decode(Decode {
        rows: 2,
        cache: 32,
        chunk: 4,
    });
    let module = key.lower(&spec.expect("it divides")).expect("it lowers");
    let text = module.to_text();
    let scopes: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once("op_name=\"")?.1.split('"').next())
        .collect();
    let mut expected = vec!["embed_tokens", "greedy", "logits", "norm"];
    let layer = [
        "",
        "/input_layernorm",
        "/mlp",
        "/mlp/down_proj",
        "/mlp/gate_proj",
        "/mlp/up_proj",
        "/post_attention_layernorm",
        "/self_attn",
        "/self_attn/k_proj",
        "/self_attn/o_proj",
        "/self_attn/q_proj",
        "/self_attn/v_proj",
        "/cache",
    ];
    let layers: Vec<String> = [0, 1]
        .iter()
        .flat_map(|index| layer.map(|module| format!("layers/{index}{module}")))
        .collect();
    expected.extend(layers.iter().map(String::as_str));
    expected.sort_unstable();
    assert_eq!(scopes.into_iter().collect::<Vec<_>>(), expected);
    // Dots are what a profile is read for: each is in a scope.
    for line in text.lines().filter(|line| line.contains(" dot(")) {
        assert!(line.contains("op_name=\""), "{line}");
    }
}
