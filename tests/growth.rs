//! What a decode step costs, and what it costs it does not grow with.

mod common;

use common::{data, gemma_xla};
use gemma_xla::config::GemmaConfig;
use gemma_xla::dtype::DType;
use gemma_xla::model::programs::{Decode, module};
use gemma_xla::model::{Choice, ModelSpec, Xla};
use gemma_xla::sharding::Mesh;
use serde_json::Value;

fn growth() -> Value {
    let mut command = gemma_xla();
    command.args(["bench", "--json", "--growth", "--max-new-tokens", "20"]);
    command.args(["--batch-size", "2", "--prompt-tokens", "256"]);
    let output = command.arg("--model").arg(data("gemma-small")).output();
    let output = output.expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn number(report: &Value, name: &str) -> f64 {
    let value = report[name].as_f64();
    value.unwrap_or_else(|| panic!("{name} is a number in {report}"))
}

#[test]
fn the_report_on_growth_has_every_context_batch_and_step() {
    let report = growth();
    let steps = &report["steps"];
    assert_eq!(steps["steps"], 510, "all of the model's positions");
    for half in ["first_half_step_s", "second_half_step_s"] {
        assert!(number(steps, half) > 0.0, "{report}");
    }
    let sizes = |name: &str, of: &str| -> Vec<u64> {
        let points = report[name].as_array().expect("points");
        let sizes = points.iter().map(|point| point[of].as_u64());
        sizes.collect::<Option<_>>().expect("numbers")
    };
    assert_eq!(sizes("contexts", "prompt_tokens"), [108, 236]);
    assert_eq!(sizes("batches", "batch_size"), [1, 2]);
}

#[test]
fn every_step_of_a_run_is_the_same_program_however_many_were_run_before_it() {
    let cache = tempfile::tempdir().expect("a folder");
    // A row that does not end: every position is used.
    let model = common::copy_of("gemma-small");
    for name in ["config.json", "generation_config.json"] {
        let file = model.path().join(name);
        common::edit_json(&file, "eos_token_id", Some(Vec::<u32>::new().into()));
    }
    let mut command = gemma_xla();
    command.args(["generate", "--input", "-", "--max-new-tokens", "511"]);
    command.arg("--model").arg(model.path());
    command.env("GEMMA_XLA_CACHE", cache.path());
    let output = command.write_stdin("{\"token_ids\": [9]}").output();
    let output = output.expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert_eq!(line["token_ids"].as_array().map(Vec::len), Some(511));
    // What was compiled is kept in the cache: the prompt's program, and that of every step. Were a
    // step to do again what was done before it, or to look at a longer cache, its shapes would be
    // others.
    let files = std::fs::read_dir(cache.path()).expect("listed");
    let files = files.map(|entry| entry.expect("listed").path());
    let programs = files.filter(|file| file.extension().is_some_and(|e| e == "program"));
    let programs = programs.count();
    assert_eq!(programs, 2, "{stderr}");
}

#[test]
fn what_goes_between_host_and_device_does_not_grow_with_the_vocabulary() {
    let program = Decode {
        rows: 3,
        cache: 96,
        chunk: 32,
        choice: Choice::GREEDY,
    };
    let signature = |vocab_size: usize| {
        let file = data("gemma-small").join("config.json");
        let text = std::fs::read_to_string(&file).expect("the file can be read");
        let mut keys: Value = serde_json::from_str(&text).expect("JSON");
        keys["vocab_size"] = vocab_size.into();
        let config = GemmaConfig::from_json(&file, &keys.to_string()).expect("a configuration");
        let spec = ModelSpec::new(config, DType::BF16, Xla::CPU, Mesh::SINGLE, |_| DType::BF16);
        let spec = spec.expect("it can be split");
        let module = module(&program, &spec).expect("it can be lowered");
        let parameters = module.parameters()[spec.parameters.len()..].to_vec();
        (parameters, module.result_shape().clone())
    };
    let (small, large) = (signature(2048), signature(256_000));
    assert_eq!(small, large, "what is not a weight has the same shapes");
    // And what the host reads of the results after a call: tokens, how many, the last ones.
    let results = large.1.to_string();
    assert!(
        results.starts_with("(s32[3,32]{1,0}, s32[], s32[3]{0}, pred[3]{0}, bf16"),
        "four results before the caches, which stay on the device: {results}"
    );
}
