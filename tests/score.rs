//! `score`: how likely texts are, as Flax says.

mod common;

use std::fs;

use common::{data, fails_naming, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{Error, LoadOptions, ScoreRequest, windows};
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture() -> Value {
    let text = fs::read_to_string(data("gemma-small/score.json")).expect("read");
    serde_json::from_str(&text).expect("JSON")
}

fn load(mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(DType::F32);
    options.mesh = mesh;
    let model = Model::open(data("gemma-small")).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

fn near(found: f64, expected: &Value) -> bool {
    (found - expected.as_f64().expect("a number")).abs() < 1e-4
}

#[test]
fn continuations_have_flaxs_logprobs_in_any_batch_and_on_a_mesh() {
    let fixture = fixture();
    let records = fixture["records"].as_array().expect("a list");
    let requests: Vec<ScoreRequest> = records
        .iter()
        .map(|record| ScoreRequest {
            context: ids(&record["context_ids"]),
            continuation: ids(&record["continuation_ids"]),
        })
        .collect();
    for (mesh, batch_size) in [
        (Mesh::SINGLE, 1),
        (Mesh::SINGLE, 8),
        (Mesh { data: 2, model: 2 }, 7),
    ] {
        let model = load(mesh);
        let scores = model.engine().score(&requests, batch_size).expect("scores");
        assert_eq!(scores.len(), records.len());
        for (score, record) in scores.iter().zip(records) {
            assert!(near(score.logprob(), &record["logprob"]), "{record}");
            let tokens = record["token_logprobs"].as_array().expect("a list");
            assert_eq!(score.token_logprobs.len(), tokens.len());
            for (&found, expected) in score.token_logprobs.iter().zip(tokens) {
                assert!(near(f64::from(found), expected), "{record}");
            }
            assert_eq!(json!(score.is_greedy), record["is_greedy"], "{record}");
        }
    }
}

#[test]
fn windows_of_a_long_text_have_flaxs_perplexity() {
    let model = load(Mesh::SINGLE);
    let fixture = fixture();
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let mut tried = 0;
    for case in fixture["perplexity"].as_array().expect("a list") {
        if case["bos"] != "first" {
            continue;
        }
        let text = fixture["texts"][case["text"].as_str().expect("a name")].as_str();
        let ids = tokenizer.encode(text.expect("a text")).expect("encoded");
        let size = |key: &str| case[key].as_u64().expect("a number") as usize;
        let requests: Vec<ScoreRequest> = windows(ids.len(), size("window"), size("stride"))
            .expect("valid")
            .into_iter()
            .map(|window| {
                let end = window.begin + window.length;
                ScoreRequest {
                    context: ids[window.begin..end - window.scored].to_vec(),
                    continuation: ids[end - window.scored..end].to_vec(),
                }
            })
            .collect();
        let scores = model.engine().score(&requests, 8).expect("scores");
        let tokens: usize = scores.iter().map(|s| s.token_logprobs.len()).sum();
        let logprob: f64 = scores.iter().map(|s| s.logprob()).sum();
        assert_eq!(tokens, size("tokens"));
        let expected = case["logprob"].as_f64().expect("a number");
        assert!((logprob - expected).abs() < 1e-4 * tokens as f64, "{case}");
        let perplexity = (-logprob / tokens as f64).exp();
        assert!(near(
            perplexity / case["perplexity"].as_f64().expect("f64"),
            &json!(1.0)
        ));
        tried += 1;
    }
    assert!(tried >= 5, "{tried}");
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = load(Mesh::SINGLE);
    let check = |context: Vec<u32>, continuation: Vec<u32>| {
        let request = ScoreRequest {
            context,
            continuation,
        };
        model.engine().check_score(3, &request)
    };
    assert!(
        check(vec![2; 500], vec![5; 13]).is_ok(),
        "the last is only looked for"
    );
    assert!(matches!(
        check(vec![2; 500], vec![5; 14]),
        Err(Error::PromptTooLong { .. })
    ));
    assert!(matches!(
        check(vec![], vec![5]),
        Err(Error::EmptyPrompt { index: 3 })
    ));
    assert!(matches!(
        check(vec![2], vec![]),
        Err(Error::EmptyContinuation { .. })
    ));
    assert!(matches!(
        check(vec![2], vec![9999]),
        Err(Error::TokenOutOfRange { .. })
    ));
}

fn score(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command.args(["score", "--dtype", "f32", "--model"]);
    command.arg(data("gemma-small")).args(arguments);
    command
}

#[test]
fn the_command_scores_lines_of_texts_and_of_ids() {
    let fixture = fixture();
    let records = fixture["records"].as_array().expect("a list");
    let input: String = records
        .iter()
        .enumerate()
        .map(|(index, record)| {
            let line = match index % 2 {
                0 => json!({
                    "id": index,
                    "context": record["context"],
                    "continuation": record["continuation"],
                }),
                _ => json!({
                    "context_ids": record["context_ids"],
                    "continuation_ids": record["continuation_ids"],
                }),
            };
            line.to_string() + "\n"
        })
        .collect();
    // A line that fails is reported in its place.
    let input = input.replacen("\n", "\n{\"id\": \"x\", \"context\": \"y\"}\n", 1);
    let output = score(&["--input", "-", "--batch-size", "3"])
        .write_stdin(input)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("1 lines failed"), "{stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(found.len(), records.len() + 1);
    for (index, line) in found.iter().enumerate() {
        assert_eq!(line["index"], index);
    }
    let failed = found.remove(1);
    assert_eq!(failed["id"], "x");
    let error = failed["error"].as_str().expect("an error");
    assert!(error.starts_with("standard input: line 2"), "{error}");
    for (index, (line, record)) in found.iter().zip(records).enumerate() {
        let id = match index % 2 {
            0 => json!(index),
            _ => Value::Null,
        };
        assert_eq!(line["id"], id);
        assert!(near(
            line["logprob"].as_f64().expect("f64"),
            &record["logprob"]
        ));
        assert_eq!(line["is_greedy"], record["is_greedy"]);
    }
}

#[test]
fn the_command_measures_perplexity() {
    let fixture = fixture();
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("text.txt");
    fs::write(&file, fixture["texts"]["short"].as_str().expect("a text")).expect("written");
    let file = file.to_str().expect("a name");
    let output = score(&["--perplexity", file, "--stride", "512", "--json"])
        .output()
        .expect("the binary runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let case = fixture["perplexity"].as_array().expect("a list").iter();
    let case = case
        .clone()
        .find(|case| case["text"] == "short" && case["window"] == 512);
    let case = case.expect("a case");
    assert_eq!(found["tokens"], case["tokens"]);
    let ratio =
        found["perplexity"].as_f64().expect("f64") / case["perplexity"].as_f64().expect("f64");
    assert!((ratio - 1.0).abs() < 1e-4);
    let output = score(&["--perplexity", file])
        .output()
        .expect("the binary runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("perplexity 20.6"));
}

#[test]
fn bad_input_is_one_line() {
    let line = |text: &str| {
        let mut command = score(&["--input", "-"]);
        command.write_stdin(text.to_owned());
        command
    };
    for (text, part) in [
        (
            "{\"context\": \"x\"}",
            "line 1: expected \"context\" and \"continuation\"",
        ),
        (
            "{\"context_ids\": [2], \"continuation_ids\": []}",
            "continuation of prompt 0 is empty",
        ),
        (
            "{\"context_ids\": [2], \"continuation_ids\": [5000]}",
            "token id 5000",
        ),
        ("no JSON", "line 1: not a context and a continuation"),
        ("", "has no lines"),
    ] {
        fails_naming(&mut line(text), &["standard input", part]);
    }
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("text.txt");
    fs::write(&file, "She was").expect("written");
    let file = file.to_str().expect("a name");
    fails_naming(
        &mut score(&["--perplexity", file, "--stride", "0"]),
        &["--stride: 0"],
    );
    fails_naming(
        &mut score(&["--perplexity", "no/such.txt"]),
        &["no/such.txt"],
    );
}
