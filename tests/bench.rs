//! `bench` as a user meets it.

mod common;

use common::{data, fails_naming, gemma_xla};
use serde_json::Value;

/// Runs `bench --json` and returns its one object.
fn bench(arguments: &[&str]) -> Value {
    let mut command = gemma_xla();
    command.args(["bench", "--json", "--model"]);
    command.arg(data("gemma-small")).args(arguments);
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn number(report: &Value, name: &str) -> f64 {
    let value = report[name].as_f64();
    value.unwrap_or_else(|| panic!("{name} is a number in {report}"))
}

#[test]
fn every_figure_is_there_and_they_fit_each_other() {
    let report = bench(&[
        "--dtype",
        "f32",
        "--batch-size",
        "2",
        "--prompt-tokens",
        "9",
        "--max-new-tokens",
        "42",
        "--repeat",
        "2",
    ]);
    for name in [
        "read_bandwidth_gbs",
        "decode_step_s",
        "decode_tokens_per_s",
        "decode_bandwidth_gbs",
        "decode_bandwidth_ratio",
        "prefill_s",
        "prefill_tflops",
        "load_s",
        "load_gbs",
        "compile_s",
        "compile_cached_s",
        "peak_rss_bytes",
        "parameter_bytes",
    ] {
        assert!(number(&report, name) > 0.0, "{name} in {report}");
    }
    // Embedding, four layers of kernels, nine norms, which keep the file's bfloat16.
    let kernels = 128 * 128 * 2 + 128 * 32 * 2 + 128 * 352 * 3;
    let parameters = (2048 * 128 + 4 * kernels) * 4 + 9 * 128 * 2;
    let found = number(&report, "parameter_bytes") as i64;
    assert_eq!(found, parameters);

    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    let step = number(&report, "decode_step_s");
    assert!(close(number(&report, "decode_tokens_per_s"), 2.0 / step));
    // Four layers' key and value of 32 float32 numbers a token, of two rows with 30 tokens on
    // average.
    let read = found as f64 + 2.0 * 30.0 * (4 * 2 * 32 * 4) as f64;
    let bandwidth = number(&report, "decode_bandwidth_gbs");
    assert!(close(bandwidth, read / step / 1e9));
    let ratio = bandwidth / number(&report, "read_bandwidth_gbs");
    assert!(close(number(&report, "decode_bandwidth_ratio"), ratio));
    let load = found as f64 / number(&report, "load_s") / 1e9;
    assert!(close(number(&report, "load_gbs"), load));
    // The buffer that reading is measured with is not in it.
    assert!(number(&report, "peak_rss_bytes") < 1e9);

    // 41 steps in two calls of the loop, in each of the two runs.
    let runs = report["decode_steps_s"].as_array().expect("runs");
    assert_eq!(runs.len(), 2);
    for calls in runs {
        assert_eq!(calls.as_array().expect("calls").len(), 2);
    }
    assert_eq!(report["prefills_s"].as_array().expect("runs").len(), 2);
}

#[test]
fn a_step_that_draws_is_set_beside_a_greedy_one() {
    let report = bench(&[
        "--do-sample",
        "--top-k",
        "50",
        "--top-p",
        "0.9",
        "--batch-size",
        "2",
        "--max-new-tokens",
        "9",
        "--repeat",
        "1",
    ]);
    let ratio = number(&report, "decode_step_s") / number(&report, "greedy_step_s");
    // One call of each.
    assert!((ratio / number(&report, "sampling_ratio") - 1.0).abs() < 1e-9);
    let greedy = bench(&["--max-new-tokens", "9", "--repeat", "1"]);
    assert_eq!(greedy.get("sampling_ratio"), None);
}

#[test]
fn steps_run_on_past_the_end_of_a_sequence() {
    // Every token of the vocabulary is an end-of-sequence token.
    let model = common::copy_of("gemma-small");
    let every: Vec<u32> = (0..2048).collect();
    for name in ["config.json", "generation_config.json"] {
        let file = model.path().join(name);
        if file.exists() {
            common::edit_json(&file, "eos_token_id", Some(every.clone().into()));
        }
    }
    let mut command = gemma_xla();
    command.args(["bench", "--json", "--max-new-tokens", "20", "--repeat", "1"]);
    let output = command.arg("--model").arg(model.path()).output();
    let output = output.expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

#[test]
fn a_size_beyond_the_models_positions_is_named() {
    let mut command = gemma_xla();
    command.args(["bench", "--prompt-tokens", "500", "--max-new-tokens", "13"]);
    command.arg("--model").arg(data("gemma-small"));
    fails_naming(
        &mut command,
        &[
            "--prompt-tokens",
            "500",
            "13",
            "max_position_embeddings 512",
        ],
    );
}

#[test]
fn a_table_is_printed_without_json() {
    let mut command = gemma_xla();
    command.args(["bench", "--max-new-tokens", "5", "--repeat", "1"]);
    let output = command
        .arg("--model")
        .arg(data("random-mqa"))
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    for row in ["memory reads", "load", "programs", "prefill", "decode"] {
        assert!(text.lines().any(|line| line.starts_with(row)), "{text}");
    }
}
