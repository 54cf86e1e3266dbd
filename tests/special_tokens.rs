//! Special tokens around a prompt: those that the tokenizer's files say, as Transformers 4.57.6 has
//! them (tests/data/gemma-small/habits.json, by tools/flax/make_habits.py).

mod common;

use std::fs;
use std::path::Path;

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::tokenizer::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What Transformers makes of the tokenizer with changed files.
fn cases() -> (Vec<String>, Vec<Value>) {
    let text = fs::read(data("gemma-small/habits.json")).expect("the reference is there");
    let mut habits: Value = serde_json::from_slice(&text).expect("JSON");
    let texts = serde_json::from_value(habits["texts"].take()).expect("texts");
    let cases = serde_json::from_value(habits["tokenizer"].take()).expect("cases");
    (texts, cases)
}

/// gemma-small with the changes of a case.
fn changed(case: &Value) -> TempDir {
    let model = copy_of("gemma-small");
    for (name, keys) in case["changes"].as_object().expect("files") {
        let file = model.path().join(name);
        if keys == "<absent>" {
            fs::remove_file(&file).expect("removed");
            continue;
        }
        if !file.exists() {
            fs::write(&file, "{}").expect("written");
        }
        for (key, value) in keys.as_object().expect("keys") {
            let value = (value != "<absent>").then(|| value.clone());
            edit_json(&file, key, value);
        }
    }
    model
}

/// Transformers' ids, with a token that is put in front and begins the text, too, once.
fn once(ids: &[u64], plain: &[u64]) -> Vec<u64> {
    match (ids, plain) {
        ([first, second, rest @ ..], [begins, ..]) if first == second && second == begins => {
            [&[*first], rest].concat()
        }
        _ => ids.to_vec(),
    }
}

fn ids(value: &Value) -> Vec<u64> {
    serde_json::from_value(value.clone()).expect("ids")
}

#[test]
fn ids_are_those_of_transformers_whatever_the_files_say() {
    let (texts, cases) = cases();
    let plain = cases
        .iter()
        .find(|case| case["name"] == "no bos")
        .expect("a case without special tokens");
    let mut refused = 0;
    for case in &cases {
        let model = changed(case);
        let tokenizer = Tokenizer::from_dir(model.path());
        if case.get("error").is_some() {
            let message = tokenizer.err().expect("an error").to_string();
            assert!(message.contains("tokenizer_config.json"), "{message}");
            assert!(message.contains("null"), "{message}");
            refused += 1;
            continue;
        }
        let tokenizer = tokenizer.expect("it opens").expect("there is one");
        for (number, text) in texts.iter().enumerate() {
            let found: Vec<u64> = tokenizer
                .encode(text)
                .expect("encoded")
                .into_iter()
                .map(u64::from)
                .collect();
            let theirs = ids(&case["token_ids"][number]);
            let expected = once(&theirs, &ids(&plain["token_ids"][number]));
            assert_eq!(found, expected, "{}: {text:?}", case["name"]);
        }
    }
    assert_eq!((cases.len(), refused), (33, 2));
}

fn generated(model: &Path, prompt: &str) -> (Value, String) {
    let output = gemma_xla()
        .args(["generate", "--format", "jsonl", "--max-new-tokens", "4"])
        .arg("--model")
        .arg(model)
        .arg(prompt)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    (line["token_ids"].clone(), stderr)
}

/// The same of token ids.
fn of_ids(model: &Path, ids: &str) -> Value {
    let output = gemma_xla()
        .args(["generate", "--format", "jsonl", "--max-new-tokens", "4"])
        .args(["--input", "-", "--input-format", "jsonl", "--model"])
        .arg(model)
        .write_stdin(format!("{{\"token_ids\": {ids}}}\n"))
        .output()
        .expect("the binary runs");
    assert!(output.status.success());
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    line["token_ids"].clone()
}

#[test]
fn the_binary_follows_the_tokenizers_files_and_warns_where_there_is_no_bos() {
    for (key, value, ids, warns) in [
        ("add_bos_token", json!(false), "[638]", true),
        ("add_eos_token", json!(true), "[2, 638, 1]", false),
        ("bos_token", json!("<pad>"), "[0, 638]", true),
        ("add_bos_token", json!(true), "[2, 638]", false),
    ] {
        let model = copy_of("gemma-small");
        let file = model.path().join("tokenizer_config.json");
        edit_json(&file, key, Some(value.clone()));
        let (tokens, said) = generated(model.path(), "She");
        assert_eq!(tokens, of_ids(model.path(), ids), "{key} {value}");
        let warnings = said.lines().filter(|line| line.contains("without <bos>"));
        assert_eq!(
            warnings.count(),
            usize::from(warns),
            "{key} {value}: {said}"
        );
    }
    // Nothing is missing where the text has it.
    let model = copy_of("gemma-small");
    let file = model.path().join("tokenizer_config.json");
    edit_json(&file, "add_bos_token", Some(json!(false)));
    let (_, said) = generated(model.path(), "<bos>She");
    assert!(!said.contains("without <bos>"), "{said}");
}

#[test]
fn other_files_change_no_prompt() {
    let model = copy_of("gemma-small");
    edit_json(
        &model.path().join("generation_config.json"),
        "bos_token_id",
        Some(json!(0)),
    );
    edit_json(
        &model.path().join("config.json"),
        "bos_token_id",
        Some(json!(5)),
    );
    let expected = of_ids(&data("gemma-small"), "[2, 638]");
    assert_eq!(generated(model.path(), "She").0, expected);
}

#[test]
fn special_tokens_map_counts_where_the_added_tokens_are_not_described() {
    let model = copy_of("gemma-small");
    let map = model.path().join("special_tokens_map.json");
    fs::write(&map, r#"{"bos_token": {"content": "<pad>"}}"#).expect("written");
    let encoded = || {
        let tokenizer = Tokenizer::from_dir(model.path()).expect("it opens");
        tokenizer
            .expect("there is one")
            .encode("She")
            .expect("encoded")
    };
    assert_eq!(encoded(), [2, 638]);
    let file = model.path().join("tokenizer_config.json");
    edit_json(&file, "added_tokens_decoder", None);
    assert_eq!(encoded(), [0, 638]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_named() {
    for (key, value, part) in [
        ("bos_token", json!("<nonesuch>"), "bos_token \"<nonesuch>\""),
        ("bos_token", json!(["<bos>"]), "key \"bos_token\""),
        ("bos_token", json!(null), "bos_token is null"),
    ] {
        let model = copy_of("gemma-small");
        let file = model.path().join("tokenizer_config.json");
        edit_json(&file, key, Some(value));
        fails_naming(
            gemma_xla()
                .args(["generate", "She", "--model"])
                .arg(model.path()),
            &["tokenizer", part],
        );
    }
    let model = copy_of("gemma-small");
    fs::write(model.path().join("tokenizer_config.json"), "{").expect("written");
    fails_naming(
        gemma_xla()
            .args(["generate", "She", "--model"])
            .arg(model.path()),
        &["tokenizer_config.json", "not valid JSON"],
    );
}
