//! Long runs: prompts read as they are needed, interrupted and resumed, split into shards, and some
//! of them bad.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{data, fails_naming};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with prompts, and a cache of compiled programs that all runs of a test share.
struct Place(TempDir);

impl Place {
    fn new(prompts: usize) -> Self {
        let place = Self(TempDir::new().expect("a folder"));
        let lines: String = (0..prompts)
            .map(|i| {
                let ids: Vec<usize> = (0..1 + i % 7)
                    .map(|j| 10 + (i * 89 + j * 37) % 400)
                    .collect();
                json!({"id": format!("p{i}"), "token_ids": ids}).to_string() + "\n"
            })
            .collect();
        fs::write(place.path("prompts.jsonl"), lines).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn generate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-xla"));
        command
            .env("GEMMA_XLA_CACHE", self.path("cache"))
            .args(["generate", "--dtype", "f32", "--max-new-tokens", "6"])
            .args(["--batch-size", "3", "--input"])
            .arg(self.path("prompts.jsonl"))
            .arg("--model")
            .arg(data("gemma-small"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> String {
        let output = self.generate(arguments).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        String::from_utf8(output.stdout).expect("text")
    }
}

fn whole_lines(file: &Path) -> usize {
    let content = fs::read(file).unwrap_or_default();
    content.iter().filter(|&&byte| byte == b'\n').count()
}

/// A congruential generator's (Knuth's MMIX) upper bits.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as usize
}

/// Kills a run: at once after a while, or when it has written some lines more than `before`.
fn kill(child: &mut Child, output: &Path, before: usize, state: &mut u64) {
    match random(state) % 3 {
        0 => std::thread::sleep(Duration::from_millis(random(state) as u64 % 400)),
        _ => {
            let wanted = before + 1 + random(state) % 9;
            while whole_lines(output) < wanted && child.try_wait().expect("asked").is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("it ends");
}

#[test]
fn a_run_that_is_killed_at_twenty_points_loses_no_prompt_and_does_none_twice() {
    let place = Place::new(150);
    let sampled = ["--do-sample", "--seed", "7"];
    let expected = place.output(&sampled);
    assert_eq!(expected.lines().count(), 150);
    let output = place.path("out.jsonl");
    let name = output.to_str().expect("a name").to_owned();
    let arguments = [&sampled[..], &["--resume", "--output", &name]].concat();
    let mut state = 1;
    for _ in 0..20 {
        let before = whole_lines(&output);
        let mut child = place
            .generate(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        kill(&mut child, &output, before, &mut state);
        let content = fs::read_to_string(&output).unwrap_or_default();
        let whole = content.rfind('\n').map_or(0, |end| end + 1);
        assert!(
            expected.starts_with(&content[..whole]),
            "results come in order"
        );
    }
    place.output(&arguments);
    assert_eq!(fs::read_to_string(&output).expect("read"), expected);
    // There is nothing left to do.
    place.output(&arguments);
    assert_eq!(fs::read_to_string(&output).expect("read"), expected);
}

#[test]
fn results_of_another_run_are_not_continued() {
    let place = Place::new(5);
    let output = place.path("out.jsonl");
    let name = output.to_str().expect("a name").to_owned();
    let resume = ["--resume", "--output", &name];
    place.output(&resume);
    let fails = |arguments: &[&str], part: &str| {
        let mut command = place.generate(&resume);
        command.args(arguments);
        let mut command = assert_cmd::Command::from_std(command);
        fails_naming(&mut command, &["--resume", part]);
    };
    let other = data("random-gqa");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-xla"));
    command
        .args([
            "generate",
            "--dtype",
            "f32",
            "--max-new-tokens",
            "6",
            "--input",
        ])
        .arg(place.path("prompts.jsonl"))
        .arg("--model")
        .arg(&other)
        .args(resume);
    let mut command = assert_cmd::Command::from_std(command);
    fails_naming(&mut command, &["--resume", "another run, whose model"]);
    fails(&["--do-sample"], "another run, whose choice of tokens");
    fails(&["--shard", "0/2"], "another run, whose shard");
    fs::remove_file(place.path("out.jsonl.run.json")).expect("removed");
    fails(&[], "no ");
    fs::write(&output, "{\"index\": 0}\nnot a result\n").expect("written");
    fs::write(place.path("out.jsonl.run.json"), "{}").expect("written");
    fails(&[], "another run, whose");
}

#[test]
fn shards_have_each_prompt_once_with_the_results_of_one_run() {
    let place = Place::new(20);
    let sampled = ["--do-sample", "--seed", "3"];
    let whole = place.output(&sampled);
    let mut lines: Vec<String> = Vec::new();
    for shard in ["0/3", "1/3", "2/3"] {
        let arguments = [&sampled[..], &["--shard", shard]].concat();
        let part = place.output(&arguments);
        assert!(part.lines().count() >= 6);
        lines.extend(part.lines().map(str::to_owned));
    }
    let index = |line: &String| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["index"].as_u64().expect("a number")
    };
    lines.sort_by_key(index);
    assert_eq!(lines.join("\n") + "\n", whole);
}

#[test]
fn prompts_that_fail_have_their_own_lines_unless_the_run_is_strict() {
    let place = Place::new(12);
    let file = place.path("prompts.jsonl");
    let good = place.output(&[]);
    let mut lines: Vec<String> = fs::read_to_string(&file)
        .expect("read")
        .lines()
        .map(str::to_owned)
        .collect();
    let long = json!({"id": "long", "token_ids": vec![5; 600]}).to_string();
    for (at, line) in [
        (0, "{\"id\": 1, \"token_ids\": [9999]}"),
        (4, "no JSON"),
        (9, long.as_str()),
        (15, "{\"id\": [2], \"prompt\": \"x\", \"token_ids\": [3]}"),
    ] {
        lines.insert(at, line.to_owned());
    }
    fs::write(&file, lines.join("\n") + "\n").expect("written");
    let output = place.generate(&[]).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("4 prompts failed"), "{stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(found.len(), 16);
    for (index, line) in found.iter().enumerate() {
        assert_eq!(line["index"], index);
    }
    for (at, id, part) in [
        (0, json!(1), "token id 9999"),
        (4, Value::Null, "line 5: not a prompt"),
        (9, json!("long"), "600 tokens"),
        (15, Value::Null, "both"),
    ] {
        assert_eq!(found[at]["id"], id);
        assert!(
            found[at]["error"]
                .as_str()
                .expect("an error")
                .contains(part)
        );
        assert_eq!(found[at].get("token_ids"), None);
    }
    let good: Vec<Value> = good
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let tokens = |line: &Value| line["token_ids"].clone();
    let others = found.iter().filter(|line| line.get("error").is_none());
    assert!(others.map(tokens).eq(good.iter().map(tokens)));
    let mut strict = assert_cmd::Command::from_std(place.generate(&["--strict"]));
    fails_naming(&mut strict, &["token id 9999"]);
}

#[test]
fn results_come_while_prompts_are_still_written() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
        .args([
            "generate",
            "--max-new-tokens",
            "2",
            "--input",
            "-",
            "--model",
        ])
        .arg(data("gemma-small"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut input = child.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let more = "{\"token_ids\": [2, 9]}\n".repeat(700);
    input.write_all(more.as_bytes()).expect("written");
    for index in 0..256 {
        let line = lines.next().expect("a result").expect("text");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line["index"], index);
    }
    drop(input);
    assert_eq!(lines.count(), 700 - 256);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
