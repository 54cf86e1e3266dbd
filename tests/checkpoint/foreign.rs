//! Other names and layouts than Flax's: every form and naming of the same weights gives the same
//! tensors, byte for byte.

use std::path::{Path, PathBuf};

use gemma_xla::checkpoint::{Checkpoint, Error, Naming};
use gemma_xla::config::GemmaConfig;
use gemma_xla::dtype::DType;
use gemma_xla::model::name_tables;
use gemma_xla::source::open_checkpoint;
use zip::CompressionMethod::{Deflated, Stored};

use super::namings::{Tree, deepmind, msgpack, pytorch};
use super::samples::{Array, arrays, npz, safetensors};

const FILE: &str = "sample";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Checkpoints of each geometry: one key and value head, several, and as many as query heads.
const MODELS: [&str; 4] = ["gemma-small", "random-gqa", "random-mha", "random-mixed"];

fn flax(model: &str) -> (Vec<Array>, GemmaConfig) {
    let folder = folder(model);
    let checkpoint = open_checkpoint(&folder).unwrap();
    assert_eq!(checkpoint.naming(), Naming::Flax);
    (arrays(&checkpoint), GemmaConfig::from_dir(&folder).unwrap())
}

fn file() -> &'static Path {
    Path::new(FILE)
}

/// Opens arrays in every form of files.
fn every_form(stored: &[Array]) -> Vec<Checkpoint> {
    let opened = [
        Checkpoint::from_msgpack(file(), msgpack(stored)),
        Checkpoint::from_npz(file(), npz(stored, Stored)),
        Checkpoint::from_npz(file(), npz(stored, Deflated)),
        Checkpoint::from_safetensors(file(), safetensors(stored)),
    ];
    opened.map(|opened| canonical(opened).unwrap()).into()
}

/// The same checkpoint by Flax's names.
fn canonical(opened: Result<Checkpoint, Error>) -> Result<Checkpoint, Error> {
    opened?.canonical(&name_tables())
}

#[track_caller]
fn assert_same(stored: &[Array], naming: Naming, expected: &[Array]) {
    for checkpoint in every_form(stored) {
        assert_eq!(checkpoint.naming(), naming);
        assert!(
            checkpoint
                .names()
                .eq(expected.iter().map(|a| a.name.as_str()))
        );
        for (found, expected) in arrays(&checkpoint).iter().zip(expected) {
            assert!(
                found == expected,
                "{}: {}",
                checkpoint.format(),
                expected.name
            );
        }
    }
}

#[test]
fn flax_names_joined_by_slashes_or_dots_or_wrapped_in_params() {
    for model in MODELS {
        let (flax, _) = flax(model);
        assert_same(&flax, Naming::Flax, &flax);
        let renamed = |rename: fn(&str) -> String| -> Vec<Array> {
            flax.iter()
                .map(|a| a.clone().named(rename(&a.name)))
                .collect()
        };
        assert_same(&renamed(|name| name.replace('/', ".")), Naming::Flax, &flax);
        assert_same(
            &renamed(|name| format!("params/{name}")),
            Naming::Flax,
            &flax,
        );
    }
}

#[test]
fn what_programs_wrap_a_model_in_is_no_part_of_its_names() {
    let (flax, _) = flax("gemma-small");
    let stored = pytorch(&flax);
    let renamed = |arrays: &[Array], rename: &dyn Fn(&str) -> String| -> Vec<Array> {
        let named = |a: &Array| a.clone().named(rename(&a.name));
        arrays.iter().map(named).collect()
    };
    for wrapping in [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "base_model.model.",
    ] {
        let wrapped = renamed(&stored, &|name| format!("{wrapping}{name}"));
        assert_same(&wrapped, Naming::PyTorch, &flax);
    }
    let inside = renamed(&stored, &|name| {
        name.replace("self_attn.", "_orig_mod.self_attn.")
            .replace("mlp.", "_checkpoint_wrapped_module.mlp.")
    });
    assert_same(&inside, Naming::PyTorch, &flax);
    let twice = renamed(&flax, &|name| format!("params/params/{name}"));
    assert_same(&twice, Naming::Flax, &flax);
    // A model that was saved without its head has no `model` in its names.
    for (arrays, naming) in [(&flax, Naming::Flax), (&stored, Naming::PyTorch)] {
        let without = renamed(arrays, &|name| {
            name.trim_start_matches("model")[1..].to_owned()
        });
        assert_same(&without, naming, &flax);
    }
}

#[test]
fn layers_that_are_stored_together_are_slices() {
    for model in ["gemma-small", "random-gqa", "random-mqa"] {
        let (flax, config) = flax(model);
        let tree = Tree {
            flat: true,
            gating_transposed: false,
            prefix: "",
        };
        let apart = deepmind(&flax, &config, tree);
        let layers = config.num_hidden_layers();
        for types in [1, 2].into_iter().filter(|types| layers % types == 0) {
            let mut by_type = Vec::new();
            let mut together = Vec::new();
            for array in &apart {
                let Some(rest) = array.name.strip_prefix("layer_0/") else {
                    if !array.name.starts_with("layer_") {
                        by_type.push(array.clone().named(format!("transformer/{}", array.name)));
                        together.push(array.clone().named(format!("params/llm/{}", array.name)));
                    }
                    continue;
                };
                let layer = |number: usize| {
                    let name = format!("layer_{number}/{rest}");
                    apart.iter().find(|a| a.name == name).unwrap()
                };
                let all: Vec<&Array> = (0..layers).map(layer).collect();
                let name = format!("params/llm/layers/{rest}");
                together.push(Array::stacked(name, &all));
                for kind in 0..types {
                    let of_kind: Vec<&Array> = (kind..layers).step_by(types).map(layer).collect();
                    let name = format!("transformer/stacked_layers/attention_type_{kind}/{rest}");
                    by_type.push(Array::stacked(name, &of_kind));
                }
            }
            assert_same(&by_type, Naming::DeepMind, &flax);
            assert_same(&together, Naming::DeepMind, &flax);
        }
    }
}

#[test]
fn more_stacked_layers_than_any_model_has_are_refused() {
    let name = "transformer/stacked_layers/attention_type_5/pre_attention_norm/scale";
    let stored = [Array::counting(name, DType::F32, &[1000, 2])];
    let error = canonical(Checkpoint::from_npz(file(), npz(&stored, Stored))).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(name) && message.contains("[1000, 2]"),
        "{message}"
    );
}

#[test]
fn pytorch_names_and_transposed_kernels() {
    for model in MODELS.into_iter().chain(["random-bias", "random-untied"]) {
        let (flax, _) = flax(model);
        assert_same(&pytorch(&flax), Naming::PyTorch, &flax);
    }
}

#[test]
fn deepmind_trees_nested_and_flat() {
    // DeepMind's models have neither biases nor a head of their own, which `random-mixed` has.
    for model in ["gemma-small", "random-gqa", "random-mha", "random-mqa"] {
        let (flax, config) = flax(model);
        for (flat, gating_transposed, prefix) in [
            (false, false, "transformer/"),
            (true, false, "transformer/"),
            (false, true, ""),
            (true, true, "params/transformer/"),
        ] {
            let tree = Tree {
                flat,
                gating_transposed,
                prefix,
            };
            assert_same(&deepmind(&flax, &config, tree), Naming::DeepMind, &flax);
        }
    }
}

#[test]
fn four_norms_a_layer_have_the_names_of_gemma_2() {
    let norm =
        |name: &str| Array::counting(&format!("transformer/layer_0/{name}"), DType::F32, &[4]);
    let stored = [
        norm("pre_attention_norm/scale"),
        norm("post_attention_norm/scale"),
        norm("pre_ffw_norm/scale"),
        norm("post_ffw_norm/scale"),
        norm("attn/_query_norm/scale"),
        norm("attn/_key_norm/scale"),
    ];
    let checkpoint = canonical(Checkpoint::from_npz(file(), npz(&stored, Stored))).unwrap();
    let from: Vec<(&str, &str)> = checkpoint
        .tensors()
        .map(|t| {
            (
                t.name().strip_prefix("model/layers/0/").unwrap(),
                t.stored_name(),
            )
        })
        .map(|(name, stored)| (name, stored.strip_prefix("transformer/layer_0/").unwrap()))
        .collect();
    let expected = [
        ("input_layernorm/weight", "pre_attention_norm/scale"),
        (
            "post_attention_layernorm/weight",
            "post_attention_norm/scale",
        ),
        ("post_feedforward_layernorm/weight", "post_ffw_norm/scale"),
        ("pre_feedforward_layernorm/weight", "pre_ffw_norm/scale"),
        ("self_attn/k_norm/weight", "attn/_key_norm/scale"),
        ("self_attn/q_norm/weight", "attn/_query_norm/scale"),
    ];
    assert_eq!(from, expected);
}

#[test]
fn a_known_name_with_axes_that_are_not_its_own_is_refused() {
    for (name, shape, axes) in [
        ("transformer/layer_0/attn/q_einsum/w", &[2, 3][..], "n d h"),
        (
            "transformer/layer_0/attn/kv_einsum/w",
            &[3, 1, 4, 2],
            "2 k d h",
        ),
        ("model.layers.0.mlp.up_proj.weight", &[2, 3, 4], "o i"),
    ] {
        let stored = [Array::counting(name, DType::F32, shape)];
        let error =
            canonical(Checkpoint::from_safetensors(file(), safetensors(&stored))).unwrap_err();
        assert!(matches!(error, Error::ForeignShape { .. }), "{error}");
        let message = error.to_string();
        for part in [FILE, name, axes, &format!("{shape:?}")] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
}

#[test]
fn two_names_for_one_tensor_are_refused() {
    let stored = [
        Array::counting("model/norm/weight", DType::F32, &[2]),
        Array::counting("model.norm.weight", DType::F32, &[2]),
    ];
    let error = canonical(Checkpoint::from_npz(file(), npz(&stored, Stored))).unwrap_err();
    assert!(matches!(error, Error::Duplicate { .. }), "{error}");
}

#[test]
fn names_that_the_table_has_not_stay_as_they_are() {
    let stored = [
        Array::counting("model/layers/00/input_layernorm/weight", DType::F32, &[2]),
        Array::counting("optimizer.step", DType::F32, &[]),
    ];
    let checkpoint = canonical(Checkpoint::from_npz(file(), npz(&stored, Stored))).unwrap();
    assert_eq!(checkpoint.naming(), Naming::Unknown);
    assert_eq!(arrays(&checkpoint), stored);
}

#[test]
fn ranges_and_casts_of_a_view_are_those_of_its_elements() {
    let (flax, config) = flax("random-gqa");
    let tree = Tree {
        flat: false,
        gating_transposed: true,
        prefix: "transformer/",
    };
    let stored = npz(&deepmind(&flax, &config, tree), Deflated);
    let checkpoint = canonical(Checkpoint::from_npz(file(), stored)).unwrap();
    for expected in &flax {
        let tensor = checkpoint.get(&expected.name).unwrap();
        for (start, len) in [(0, 7), (33, 40), (expected.bytes.len() - 9, 9)] {
            let mut out = vec![0; len];
            tensor.read_at(start, &mut out).unwrap();
            assert_eq!(out, expected.bytes[start..start + len], "{}", expected.name);
        }
        // Transposing twice, and casting to float32 and by hand, must agree.
        assert_eq!(
            Array::of(&tensor.transposed()).bytes,
            expected.transposed().bytes
        );
        let mut wide = vec![0; expected.bytes.len() / expected.dtype.size() * 4];
        tensor.read_into(DType::F32, &mut wide).unwrap();
        assert_eq!(expected.dtype, DType::F16);
        let by_hand: Vec<u8> = expected
            .bytes
            .chunks_exact(2)
            .flat_map(|x| {
                half::f16::from_le_bytes([x[0], x[1]])
                    .to_f32()
                    .to_le_bytes()
            })
            .collect();
        assert!(wide == by_hand, "{}", expected.name);
    }
}
