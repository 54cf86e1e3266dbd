//! Prompts as people have them: with byte-order marks, as JSON under other names, through pipes,
//! and far too long.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command as Process;

use assert_cmd::Command;
use common::{copy_of, data, fails_naming, gemma_xla};
use serde_json::Value;
use tempfile::TempDir;

fn generate(input: &Path) -> Command {
    let mut command = gemma_xla();
    command.args([
        "generate",
        "--dtype",
        "f32",
        "--max-new-tokens",
        "3",
        "--format",
        "jsonl",
    ]);
    command.arg("--model").arg(data("gemma-small"));
    command.arg("--input").arg(input);
    command
}

fn from_stdin(input: impl Into<Vec<u8>>) -> Command {
    let mut command = generate(Path::new("-"));
    command.write_stdin(input);
    command
}

/// The lines of a run that succeeds.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

fn file(folder: &TempDir, name: &str, content: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("written");
    path
}

#[test]
fn a_byte_order_mark_is_not_a_part_of_the_first_prompt() {
    let folder = TempDir::new().expect("a folder");
    let mut runs = Vec::new();
    for (name, content) in [
        ("plain.txt", "She\nHe\n"),
        ("marked.txt", "\u{feff}She\nHe\n"),
        ("windows.txt", "\u{feff}She\r\nHe\r\n"),
        (
            "marked.jsonl",
            "\u{feff}{\"prompt\": \"She\"}\n{\"prompt\": \"He\"}\n",
        ),
    ] {
        runs.push((name, lines(&mut generate(&file(&folder, name, content)))));
    }
    assert_eq!(runs[0].1.len(), 2);
    for (name, run) in &runs {
        assert_eq!(run, &runs[0].1, "{name}");
    }
    assert_eq!(lines(&mut from_stdin("\u{feff}She\nHe\n")), runs[0].1);
}

#[test]
fn json_is_recognised_wherever_it_comes_from() {
    let json = "\n  {\"prompt\": \"She\", \"id\": 1}\n";
    let folder = TempDir::new().expect("a folder");
    let expected = lines(&mut generate(&file(&folder, "prompts.jsonl", json)));
    assert_eq!(expected.len(), 1);
    for name in ["prompts.ndjson", "prompts.json", "PROMPTS.JSON", "prompts"] {
        assert_eq!(
            lines(&mut generate(&file(&folder, name, json))),
            expected,
            "{name}"
        );
    }
    assert_eq!(lines(&mut from_stdin(json)), expected);
    // Results are JSON where prompts are.
    let mut command = gemma_xla();
    command.args([
        "generate",
        "--max-new-tokens",
        "1",
        "--input",
        "-",
        "--model",
    ]);
    let output = command.arg(data("gemma-small")).write_stdin(json).output();
    assert!(
        output
            .expect("the binary runs")
            .stdout
            .starts_with(b"{\"index\":0")
    );
    // Unless it is meant as text.
    let as_text = lines(from_stdin(json).args(["--input-format", "text"]));
    assert_eq!(as_text.len(), 2, "a blank line is a prompt of a text");
    assert!(as_text[1].starts_with("{\"index\":1,\"id\":null"));
    let named_text = lines(&mut generate(&file(&folder, "prompts.txt", json)));
    assert_eq!(named_text, as_text);
}

#[test]
fn a_json_array_is_named_as_such_and_a_bracket_is_a_text() {
    let arrays = [
        "[{\"prompt\": \"x\"}]",
        "[\n  {\"prompt\": \"x\"}\n]",
        "[{\"prompt\": \"x\"},\n",
        "[]",
    ];
    for array in arrays {
        fails_naming(
            &mut from_stdin(array),
            &["standard input: line 1: a JSON array, not JSON lines"],
        );
    }
    fails_naming(
        &mut from_stdin("{\"prompt\": \"x\"}\n[null, \"x\", null]\n"),
        &["standard input: line 2: a JSON array, not JSON lines"],
    );
    fails_naming(
        &mut from_stdin("{\"prompt\": \"x\"}\n\"y\"\n"),
        &["standard input: line 2: not a prompt: expected a JSON object"],
    );
    for text in ["[1] She was", "[INST] She", "- {\"a\": 1}"] {
        assert_eq!(lines(&mut from_stdin(text)).len(), 1, "{text}");
    }
}

#[test]
fn an_id_comes_back_as_it_was_written() {
    for id in [
        "12345678901234567890123",
        "1e2",
        "-0.10",
        "1.0000000000000000001",
        "{\"z\":1,\"a\":{\"y\":[1e2,2],\"b\":null}}",
        "\"\\u00e9\\/\"",
        "[ 1 , 2 ]",
        "null",
    ] {
        let found = lines(&mut from_stdin(format!(
            "{{\"id\": {id}, \"token_ids\": [2, 9]}}"
        )));
        let expected = format!("{{\"index\":0,\"id\":{id},\"token_ids\":[");
        assert!(found[0].starts_with(&expected), "{}", found[0]);
        serde_json::from_str::<Value>(&found[0]).expect("JSON");
    }
}

#[test]
fn an_error_of_a_prompt_names_file_line_and_id() {
    let folder = TempDir::new().expect("a folder");
    let run = |second: &str| {
        let content = format!("{{\"token_ids\": [2]}}\n\n{second}\n");
        generate(&file(&folder, "prompts.jsonl", &content))
    };
    let place = "prompts.jsonl: line 3 (id \"q-7\")";
    for (line, part) in [
        ("{\"id\": \"q-7\", \"token_ids\": [5000]}", "token id 5000"),
        ("{\"id\": \"q-7\", \"token_ids\": []}", "no tokens"),
        ("{\"id\": \"q-7\"}", "neither"),
        (
            "{\"id\": \"q-7\", \"prompt\": \"x\", \"token_ids\": [2]}",
            "both",
        ),
    ] {
        fails_naming(&mut run(line), &[place, part]);
    }
    let long = format!("{{\"id\": \"q-7\", \"token_ids\": {:?}}}", vec![5; 600]);
    fails_naming(
        &mut run(&long),
        &[place, "600 tokens", "max_position_embeddings"],
    );
    let long_id = format!("{{\"id\": \"{}\"}}", "x".repeat(10_000));
    let output = run(&long_id).output().expect("the binary runs");
    assert!(output.stderr.len() < 1_000, "a long id is cut");
}

#[test]
fn input_without_end_or_of_one_endless_line_is_refused() {
    let started = |mut command: Command, parts: &[&str]| {
        fails_naming(&mut command, parts);
    };
    started(
        generate(Path::new("/dev/zero")),
        &["/dev/zero: line 1", "longer than"],
    );
    started(
        from_stdin(vec![b'x'; 20 << 20]),
        &["standard input: line 1", "longer than"],
    );
    // A text that can be read, and that no Gemma of 512 positions has room for.
    let text = "She said that ".repeat(70_000);
    started(
        from_stdin(text),
        &[
            "standard input: line 1",
            "980000 bytes",
            "max_position_embeddings is 512",
        ],
    );
}

#[cfg(unix)]
fn fifo(path: &Path) {
    let made = Process::new("mkfifo")
        .arg(path)
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
}

#[cfg(unix)]
#[test]
fn prompts_may_come_from_a_fifo() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("prompts");
    fifo(&path);
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut to = fs::File::options().write(true).open(path).expect("opened");
            to.write_all(b"She\n").expect("written");
            to.write_all(b"He\n").expect("written");
        }
    });
    assert_eq!(lines(&mut generate(&path)).len(), 2);
    writer.join().expect("written");
}

#[cfg(unix)]
#[test]
fn files_that_are_read_whole_must_be_regular() {
    for name in ["tokenizer.json", "config.json", "generation_config.json"] {
        let model = copy_of("gemma-small");
        let path = model.path().join(name);
        fs::remove_file(&path).expect("removed");
        fifo(&path);
        let mut command = gemma_xla();
        command
            .args(["generate", "She", "--model"])
            .arg(model.path());
        fails_naming(&mut command, &[name, "not a regular file"]);
    }
    let folder = TempDir::new().expect("a folder");
    let reference = folder.path().join("reference.npz");
    fifo(&reference);
    let mut command = gemma_xla();
    command
        .arg("parity")
        .arg(&reference)
        .arg("--model")
        .arg(data("gemma-small"));
    fails_naming(&mut command, &["reference.npz", "not a regular file"]);
}

#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_named_with_its_target() {
    for name in ["tokenizer.json", "config.json", "generation_config.json"] {
        let model = copy_of("gemma-small");
        let path = model.path().join(name);
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("../../blobs/0123abc", &path).expect("linked");
        let mut command = gemma_xla();
        command
            .args(["generate", "She", "--model"])
            .arg(model.path());
        fails_naming(
            &mut command,
            &[name, "a symbolic link to ../../blobs/0123abc"],
        );
    }
}

#[test]
fn a_byte_order_mark_in_a_json_file_is_tolerated() {
    let model = copy_of("gemma-small");
    for name in ["tokenizer.json", "config.json", "generation_config.json"] {
        let path = model.path().join(name);
        let content = fs::read_to_string(&path).expect("read");
        fs::write(&path, format!("\u{feff}{content}")).expect("written");
    }
    let mut command = gemma_xla();
    command.args(["generate", "She", "--max-new-tokens", "2", "--model"]);
    command.arg(model.path()).assert().success();
}

#[test]
fn a_tokenizer_that_multiplies_texts_is_refused() {
    let model = copy_of("gemma-small");
    let path = model.path().join("tokenizer.json");
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let ten =
        serde_json::json!({"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeeeee"});
    tokenizer["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": vec![ten; 9]});
    fs::write(&path, tokenizer.to_string()).expect("written");
    let mut command = gemma_xla();
    command
        .args(["generate", "She", "--model"])
        .arg(model.path());
    fails_naming(
        &mut command,
        &["tokenizer.json", "normalizer", "1000000000 times"],
    );
}
