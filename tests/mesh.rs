//! The same results on any mesh: devices of one CPU client stand for chips.

mod common;

use common::{data, fails_naming, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::engine::LoadOptions;
use gemma_xla::parity::{Agreement, Reference, Tolerance, compare};
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};

/// Checkpoints by what their heads do on a model axis: one kv head that all share, one between, and
/// as many as query heads; one with biases and a head of its own; and the trained one.
const CHECKPOINTS: [&str; 5] = [
    "random-mqa",
    "random-sharded",
    "random-mha",
    "random-mixed",
    "gemma-small",
];

fn load(name: &str, dtype: DType, mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(dtype);
    options.devices = Some(8);
    options.mesh = mesh;
    let model = Model::open(data(name)).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

/// The meshes of 2, 4 and 8 devices that divide this many heads and kv heads.
fn meshes(heads: usize, kv_heads: usize) -> Vec<Mesh> {
    let mut found = Vec::new();
    for devices in [2, 4, 8] {
        for model in [1, 2, 3, 4, 6, 8] {
            let divides = devices % model == 0
                && heads.is_multiple_of(model)
                && (kv_heads.is_multiple_of(model) || model.is_multiple_of(kv_heads));
            if divides {
                let data = devices / model;
                found.push(Mesh { data, model });
            }
        }
    }
    assert!(found.len() >= 3);
    found
}

fn forward_logits(model: &LoadedModel, reference: &Reference) -> Vec<f32> {
    let (ids, mask) = (&reference.input_ids, &reference.attention_mask);
    model
        .engine()
        .forward(reference.batch, reference.length, ids, mask)
        .expect("the forward pass runs")
        .logits
}

/// How far `ours` are from `theirs` where there is no padding, relative to their scale.
fn distance(reference: &Reference, ours: &[f32], theirs: &[f32]) -> f64 {
    let width = theirs.len() / reference.attention_mask.len();
    let rows = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
    let tokens = rows
        .zip(&reference.attention_mask)
        .filter(|(_, mask)| **mask != 0);
    Agreement::between(tokens.flat_map(|((x, y), _)| x.iter().zip(y))).max_relative
}

#[test]
fn float32_tokens_equal_flax_and_logits_one_device_on_every_mesh() {
    for name in CHECKPOINTS {
        let path = data(name).join("reference-float32.npz");
        let reference = Reference::read(&path).expect("the reference can be read");
        let single = load(name, DType::F32, Mesh::SINGLE);
        let config = &single.engine().spec().config;
        let expected = forward_logits(&single, &reference);
        for mesh in meshes(config.num_attention_heads(), config.num_key_value_heads()) {
            let sharded = load(name, DType::F32, mesh);
            let distance = distance(&reference, &forward_logits(&sharded, &reference), &expected);
            assert!(distance <= 1e-5, "{name} on {mesh}: {distance:e}");
            let tolerance = Tolerance::for_dtype(DType::F32);
            let report =
                compare(sharded.engine(), &reference, tolerance).expect("the comparison runs");
            assert!(report.generated.is_some());
            assert!(
                report.divergences.is_empty(),
                "{name} on {mesh}: {:?}",
                report.divergences
            );
        }
    }
}

#[test]
fn bfloat16_logits_differ_by_no_more_than_flax_in_other_batch_shapes() {
    for name in ["random-mqa", "random-sharded", "gemma-small"] {
        let path = data(name).join("reference-bfloat16.npz");
        let reference = Reference::read(&path).expect("the reference can be read");
        let noise = reference.metadata["batch_noise"]["max_rel_to_scale"].as_f64();
        let noise = noise.expect("the reference says what was measured");
        let single = forward_logits(&load(name, DType::BF16, Mesh::SINGLE), &reference);
        for mesh in [Mesh { data: 1, model: 2 }, Mesh { data: 2, model: 4 }] {
            let sharded = load(name, DType::BF16, mesh);
            let distance = distance(&reference, &forward_logits(&sharded, &reference), &single);
            assert!(
                distance <= noise,
                "{name} on {mesh}: {distance:e}, Flax {noise:e}"
            );
        }
    }
}

#[test]
fn each_device_holds_its_share_and_no_more() {
    let whole = load("gemma-small", DType::BF16, Mesh::SINGLE);
    let quarter = load("gemma-small", DType::BF16, Mesh { data: 1, model: 4 });
    let bytes = |model: &LoadedModel| model.engine().spec().parameter_bytes();
    // The norms and the one key and value head, of 128 · 32 each, are on every device; the rest is
    // split.
    let layers = whole.engine().spec().config.num_hidden_layers();
    let replicated = 2 * (layers * (2 * 128 + 2 * 128 * 32) + 128);
    let (whole, quarter) = (bytes(&whole), bytes(&quarter));
    assert_eq!(quarter, (whole - replicated) / 4 + replicated);
}

fn generate(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command
        .args(["generate", "--model"])
        .arg(data("gemma-small"));
    command.args(arguments).arg("She");
    command
}

#[test]
fn the_command_line_takes_a_mesh_and_says_the_same() {
    let run = |arguments: &[&str]| {
        let output = generate(arguments).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output.stdout
    };
    let single = run(&["--dtype", "f32"]);
    assert_eq!(run(&["--dtype", "f32", "--mesh", "data=2,model=2"]), single);
    assert_eq!(
        run(&["--dtype", "f32", "--mesh", "model=4", "--devices", "8"]),
        single
    );
}

#[test]
fn a_mesh_that_does_not_divide_says_which_sizes_would_do() {
    fails_naming(
        &mut generate(&["--mesh", "model=3"]),
        &["model=3", "num_attention_heads (4)", "1, 2, 4"],
    );
}

#[test]
fn fewer_devices_than_the_mesh_needs() {
    fails_naming(
        &mut generate(&["--mesh", "model=4", "--devices", "2"]),
        &["--devices", "2", "data=1,model=4"],
    );
}

#[test]
fn a_mesh_that_is_none_is_wrong_usage() {
    let output = generate(&["--mesh", "model=x"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("data=D,model=M"));
}
