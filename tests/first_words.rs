//! What people type first, and what they get back.

mod common;

use assert_cmd::Command;
use common::{copy_of, data, fails_naming, gemma_xla};

/// What a command line that cannot be run gets on standard error.
fn refused(arguments: &[&str]) -> String {
    let output = gemma_xla()
        .args(arguments)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty());
    stderr
}

#[track_caller]
fn says(arguments: &[&str], line: &str) {
    let stderr = refused(arguments);
    assert!(
        stderr.lines().any(|l| l.trim() == line),
        "{arguments:?}: {stderr}"
    );
}

fn tokens(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

fn generate(arguments: &[&str]) -> Command {
    let mut command = gemma_xla();
    command
        .args(["generate", "--max-new-tokens", "4"])
        .args(arguments);
    command
}

fn small() -> String {
    data("gemma-small").to_str().expect("a path").to_owned()
}

#[test]
fn a_model_and_a_prompt_without_options_get_the_full_command() {
    for (arguments, command) in [
        (
            &["generate", "google/gemma-2b", "hi"][..],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b hi",
        ),
        (
            &[
                "generate",
                "--batch-size",
                "2",
                "google/gemma-2b",
                "What is it?",
            ],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b --batch-size 2 'What is it?'",
        ),
        (
            &["generate", "hi"],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b hi",
        ),
        (
            &["generate", "--input", "some/prompts", "-v"],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b --input some/prompts -v",
        ),
        (
            &["bench", "google/gemma-7b"],
            "tip: did you mean: gemma-xla bench --model google/gemma-7b",
        ),
        (
            &["google/gemma-2b"],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b 'A prompt'",
        ),
        (
            &["google/gemma-2b", "it's late"],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b 'it'\\''s late'",
        ),
        (
            &["Tell me a story"],
            "tip: did you mean: gemma-xla generate --model google/gemma-2b 'Tell me a story'",
        ),
    ] {
        says(arguments, command);
    }
    let folder = small();
    says(
        &["generate", &folder, "hi"],
        &format!("tip: did you mean: gemma-xla generate --model {folder} hi"),
    );
    // A mistyped subcommand is still one.
    assert!(refused(&["generat"]).contains("'generate'"));
}

#[test]
fn options_of_transformers_say_what_does_the_same_here() {
    for (option, part) in [
        ("--max-length", "use --max-new-tokens N"),
        ("--max_length=30", "use --max-new-tokens N"),
        ("--num-beams", "no beam search"),
        ("--torch-dtype", "use --dtype"),
        ("--device-map", "--mesh"),
        (
            "--max_new_tokens",
            "options are written with hyphens: --max-new-tokens",
        ),
        ("--token", "HF_TOKEN"),
    ] {
        let stderr = refused(&["generate", "--model", "x", "hi", option, "3"]);
        assert!(stderr.contains(part), "{option}: {stderr}");
    }
    for option in ["--max-length", "--no-such-option", "-x"] {
        let stderr = refused(&["generate", "--model", "x", "hi", option, "3"]);
        assert!(!stderr.contains("-- -"), "{option}: {stderr}");
        assert!(!stderr.contains("as a value"), "{option}: {stderr}");
    }
}

#[test]
fn short_options_and_a_prompt_by_name_are_taken() {
    let model = small();
    let expected = tokens(&mut generate(&["--model", &model, "She", "He"]));
    assert_eq!(
        tokens(&mut generate(&[
            "-m", &model, "-p", "She", "--prompt", "He"
        ])),
        expected
    );
    assert_eq!(
        tokens(&mut generate(&["-m", &model, "She", "-p", "He"])),
        expected
    );
    let dash = tokens(&mut generate(&["-m", &model, "-p", "- She"]));
    assert!(dash.starts_with("- She"), "{dash}");
    let from_stdin = tokens(generate(&["-m", &model, "-"]).write_stdin("She\nHe\n"));
    assert_eq!(from_stdin, expected);
}

#[test]
fn a_file_of_a_checkpoint_stands_for_its_folder() {
    let model = copy_of("gemma-small");
    let file = |name: &str| model.path().join(name).to_str().expect("a path").to_owned();
    let expected = tokens(&mut generate(&["--model", &small(), "She"]));
    let found = tokens(&mut generate(&[
        "--model",
        &file("flax_model.msgpack"),
        "She",
    ]));
    assert_eq!(found, expected);
    assert_eq!(
        tokens(&mut generate(&["--model", &file("config.json"), "She"])),
        expected
    );
    let shard = data("random-sharded").join("flax_model-00001-of-00002.msgpack");
    if shard.exists() {
        generate(&["--format", "jsonl", "--input", "-", "--model"])
            .arg(shard)
            .write_stdin("{\"token_ids\": [2, 5]}")
            .assert()
            .success();
    }
    // Other weights than those that the folder is read from.
    std::fs::write(file("other.msgpack"), b"").expect("written");
    fails_naming(
        &mut generate(&["--model", &file("other.msgpack"), "She"]),
        &["other.msgpack", "flax_model.msgpack", "a folder of its own"],
    );
}

#[test]
fn gpu_is_cuda_and_cuda_is_two_plugins() {
    let empty = tempfile::tempdir().expect("a folder");
    let mut command = generate(&["--model", &small(), "--device", "gpu", "She"]);
    command
        .env("GEMMA_XLA_PLUGINS", empty.path())
        .env_remove("GEMMA_XLA_PLUGIN_CUDA");
    fails_naming(&mut command, &["`gemma-xla plugin install cuda13`"]);
    for name in ["cuda", "gpu"] {
        fails_naming(
            gemma_xla().args(["plugin", "install", name]),
            &[
                name,
                "cuda12",
                "`gemma-xla plugin install cuda13`",
                "nvidia-smi",
            ],
        );
    }
}

#[test]
fn devices_that_the_mesh_does_not_use_are_told() {
    let run = |arguments: &[&str]| {
        let output = generate(&["--model", &small(), "She"])
            .args(arguments)
            .output();
        let output = output.expect("the binary runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("text")
    };
    let unused = run(&["--devices", "4"]);
    let line = "--devices 4 makes 4 CPU devices, and --mesh data=1,model=1 uses 1 of them";
    assert!(unused.contains(line), "{unused}");
    assert!(unused.contains("--mesh data=4"), "{unused}");
    assert!(!run(&["--devices", "2", "--mesh", "data=2"]).contains("--devices"));
}
