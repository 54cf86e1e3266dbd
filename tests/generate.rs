//! `generate` as a user meets it.

mod common;

use std::fs;
use std::path::Path;

use common::{copy_of, data, edit_json, gemma_xla};
use gemma_xla::parity::Reference;
use serde_json::{Value, json};
use tempfile::TempDir;

fn prompts() -> Vec<String> {
    let text =
        fs::read_to_string(data("gemma-small/prompts.txt")).expect("the prompts can be read");
    text.lines().map(str::to_owned).collect()
}

/// Runs `generate` in float32 and returns standard output.
fn generate(model: &Path, arguments: &[&str], input: Option<&str>) -> String {
    let mut command = gemma_xla();
    command
        .args(["generate", "--dtype", "f32", "--model"])
        .arg(model);
    command.args(arguments);
    if let Some(input) = input {
        command.write_stdin(input.to_owned());
    }
    let output = command.output().expect("the binary runs");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn jsonl(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect()
}

#[test]
fn text_prompts_give_flax_tokens_in_order_with_text_and_reason() {
    let reference = Reference::read(&data("gemma-small/reference-float32.npz")).expect("read");
    let (total, sequences) = reference.sequences.as_ref().expect("sequences");
    let new = total - reference.length;
    let input = prompts().join("\n") + "\n";
    let lines = jsonl(&generate(
        &data("gemma-small"),
        &[
            "--input",
            "-",
            "--format",
            "jsonl",
            "--max-new-tokens",
            &new.to_string(),
            "--batch-size",
            "4",
        ],
        Some(&input),
    ));
    assert_eq!(lines.len(), reference.batch);
    for (row, line) in lines.iter().enumerate() {
        assert_eq!(line["index"], row);
        assert_eq!(line["id"], Value::Null);
        let ids: Vec<i32> = serde_json::from_value(line["token_ids"].clone()).expect("ids");
        let expected = &sequences[row * total + reference.length..(row + 1) * total];
        assert_eq!(ids, expected[..ids.len()], "row {row}");
        match line["finish_reason"].as_str() {
            Some("eos") => {
                assert_eq!(ids.last(), Some(&1));
                assert!(
                    expected[ids.len()..].iter().all(|&id| id == 0),
                    "padding follows"
                );
            }
            Some("length") => assert_eq!(ids.len(), new),
            other => panic!("finish_reason {other:?}"),
        }
        let text = line["text"].as_str().expect("a text");
        assert!(!text.contains("<eos>"), "{text:?}");
        assert_eq!(text.is_empty(), ids == [1], "{text:?}");
    }
}

#[test]
fn token_ids_are_taken_as_they_are_and_need_no_tokenizer() {
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("tokenizer.json")).expect("removed");
    let reference = Reference::read(&data("gemma-small/reference-float32.npz")).expect("read");
    let (total, sequences) = reference.sequences.as_ref().expect("sequences");
    let line = json!({"id": {"any": [1, "x"]}, "token_ids": reference.prompt(1)}).to_string();
    let found = jsonl(&generate(
        model.path(),
        &[
            "--input",
            "-",
            "--input-format",
            "jsonl",
            "--max-new-tokens",
            "5",
        ],
        Some(&line),
    ));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["id"], json!({"any": [1, "x"]}));
    assert_eq!(found[0]["text"], Value::Null);
    let expected = &sequences[total + reference.length..][..5];
    assert_eq!(found[0]["token_ids"], json!(expected));
}

#[test]
fn streamed_text_equals_text_at_once() {
    let prompts = prompts();
    let mut arguments = vec!["--max-new-tokens", "40", "--batch-size", "3"];
    arguments.extend(prompts.iter().map(String::as_str));
    let at_once = generate(&data("gemma-small"), &arguments, None);
    arguments.push("--stream");
    assert_eq!(generate(&data("gemma-small"), &arguments, None), at_once);
    for prompt in &prompts {
        assert!(
            at_once.contains(prompt),
            "{prompt:?} begins its continuation"
        );
    }
}

#[test]
fn any_eos_of_a_list_ends_a_row_and_the_others_go_on() {
    let reference = Reference::read(&data("gemma-small/reference-float32.npz")).expect("read");
    let (total, sequences) = reference.sequences.as_ref().expect("sequences");
    // Whatever the first row says as its fourth new token becomes an end of sequence.
    let stop = sequences[reference.length + 3];
    let model = copy_of("gemma-small");
    for name in ["config.json", "generation_config.json"] {
        let file = model.path().join(name);
        if file.exists() {
            edit_json(&file, "eos_token_id", Some(json!([1, stop])));
        }
    }
    let lines: String = (0..reference.batch)
        .map(|row| json!({"token_ids": reference.prompt(row)}).to_string() + "\n")
        .collect();
    let found = jsonl(&generate(
        model.path(),
        &[
            "--input",
            "-",
            "--input-format",
            "jsonl",
            "--max-new-tokens",
            "20",
        ],
        Some(&lines),
    ));
    for (row, line) in found.iter().enumerate() {
        let expected = &sequences[row * total + reference.length..][..20];
        let end = expected.iter().position(|id| *id == stop || *id == 1);
        let expected = &expected[..end.map_or(20, |end| end + 1)];
        assert_eq!(line["token_ids"], json!(expected), "row {row}");
        let reason = if end.is_some() { "eos" } else { "length" };
        assert_eq!(line["finish_reason"], reason, "row {row}");
    }
    assert_eq!(found[0]["finish_reason"], "eos");
}

#[test]
fn new_tokens_end_where_positions_do() {
    let model = copy_of("gemma-small");
    edit_json(
        &model.path().join("config.json"),
        "max_position_embeddings",
        Some(json!(12)),
    );
    let mut command = gemma_xla();
    command.args([
        "generate",
        "--dtype",
        "f32",
        "--input",
        "-",
        "--input-format",
        "jsonl",
        "--model",
    ]);
    command
        .arg(model.path())
        .write_stdin("{\"token_ids\": [2, 9, 9, 9, 9, 9, 9, 9]}\n");
    let output = command.output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0));
    let found = jsonl(&String::from_utf8_lossy(&output.stdout));
    let longer = jsonl(&generate(
        &data("gemma-small"),
        &[
            "--input",
            "-",
            "--input-format",
            "jsonl",
            "--max-new-tokens",
            "6",
        ],
        Some("{\"token_ids\": [2, 9, 9, 9, 9, 9, 9, 9]}\n"),
    ));
    let longer = longer[0]["token_ids"].as_array().expect("ids");
    assert_eq!(longer.len(), 6, "where there is room");
    assert_eq!(found[0]["token_ids"], json!(longer[..4]));
    assert_eq!(found[0]["finish_reason"], "length");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("prompt 0") && stderr.contains("4 new tokens"),
        "{stderr}"
    );
}

#[test]
fn an_output_file_appears_complete_and_replaces_the_old_one() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("out.jsonl");
    fs::write(&file, "old").expect("written");
    let arguments = ["--format", "jsonl", "--max-new-tokens", "3", "--output"];
    let arguments = [
        &arguments[..],
        &[file.to_str().expect("a name"), "The", "He"],
    ]
    .concat();
    assert_eq!(generate(&data("gemma-small"), &arguments, None), "");
    let text = fs::read_to_string(&file).expect("the results can be read");
    assert_eq!(jsonl(&text).len(), 2);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("listed").collect();
    assert_eq!(left.len(), 1, "nothing else is left behind");
}

#[test]
fn an_interruption_keeps_finished_results_and_exits_with_130() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("prompts.jsonl");
    fs::write(&file, "{\"token_ids\": [2, 9]}\n".repeat(20_000)).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
        .args(["generate", "--batch-size", "2", "--input"])
        .arg(&file)
        .arg("--model")
        .arg(data("gemma-small"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a result").expect("text");
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.expect("kill runs").success());
    let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(rest.len() < 19_999, "it stopped early");
    for line in std::iter::once(&first).chain(&rest) {
        serde_json::from_str::<Value>(line).expect("every result is whole");
    }
}

#[test]
fn prompts_run_in_parts_give_the_tokens_of_prompts_run_whole() {
    // Forty rows are run 64 tokens at a time, one row 512.
    let lines: Vec<String> = (0..40)
        .map(|i| {
            let ids: Vec<usize> = (0..1 + i * 8)
                .map(|j| 10 + (i * 89 + j * 37) % 400)
                .collect();
            json!({"token_ids": ids}).to_string()
        })
        .collect();
    let input = lines.join("\n") + "\n";
    let run = |batch: &str| {
        let arguments = [
            "--input",
            "-",
            "--input-format",
            "jsonl",
            "--max-new-tokens",
            "6",
            "--batch-size",
            batch,
        ];
        jsonl(&generate(&data("gemma-small"), &arguments, Some(&input)))
    };
    let (together, alone) = (run("40"), run("1"));
    assert_eq!(together.len(), 40);
    assert_eq!(together, alone);
}
