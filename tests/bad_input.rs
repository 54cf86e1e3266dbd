//! Bad input gets one line that names the thing, exit status 1, and nothing half done. What is
//! wrong inside of a msgpack file is held by the loader's own tests as well, at every boundary;
//! here is what a user sees.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use serde_json::json;
use tempfile::TempDir;

/// `generate` on the checkpoint in `model`, with a prompt that needs no tokenizer.
fn generate(model: &Path) -> Command {
    let mut command = gemma_xla();
    command.args([
        "generate",
        "--input-format",
        "jsonl",
        "--input",
        "-",
        "--model",
    ]);
    command.arg(model).write_stdin("{\"token_ids\": [2, 5]}\n");
    command
}

fn generate_line(model: &Path, line: &str) -> Command {
    let mut command = generate(model);
    command.write_stdin(line.to_owned());
    command
}

#[test]
fn a_folder_that_is_not_there() {
    fails_naming(
        &mut generate(Path::new("no/such/folder")),
        &["no/such/folder"],
    );
}

#[test]
fn config_json_missing() {
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("config.json")).expect("removed");
    fails_naming(&mut generate(model.path()), &["config.json"]);
}

#[test]
fn config_json_unreadable() {
    let model = copy_of("gemma-small");
    fs::write(model.path().join("config.json"), "{\"vocab_size\": ").expect("written");
    fails_naming(&mut generate(model.path()), &["config.json", "line 1"]);
}

#[test]
fn config_json_lacks_a_key() {
    for key in ["vocab_size", "hidden_size", "head_dim", "num_hidden_layers"] {
        let model = copy_of("gemma-small");
        edit_json(&model.path().join("config.json"), key, None);
        fails_naming(&mut generate(model.path()), &["config.json", key]);
    }
}

#[test]
fn model_type_unknown() {
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "model_type", Some(json!("llama")));
    fails_naming(
        &mut generate(model.path()),
        &["config.json", "model_type", "llama"],
    );
}

#[test]
fn a_checkpoint_cut_short() {
    let whole = fs::read(data("gemma-small/flax_model.msgpack")).expect("read");
    for length in [0, 1, 20, 100, whole.len() / 2, whole.len() - 1] {
        let model = copy_of("gemma-small");
        let file = model.path().join("flax_model.msgpack");
        fs::write(&file, &whole[..length]).expect("written");
        fails_naming(&mut generate(model.path()), &["flax_model.msgpack"]);
    }
}

#[test]
fn no_checkpoint_in_the_folder() {
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("flax_model.msgpack")).expect("removed");
    fails_naming(
        &mut generate(model.path()),
        &["flax_model.msgpack", "flax_model.msgpack.index.json"],
    );
}

#[test]
fn a_shape_that_differs_from_the_configuration() {
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "intermediate_size", Some(json!(24)));
    fails_naming(&mut generate(model.path()), &["mlp", "proj/kernel", "24"]);
}

#[test]
fn a_tensor_missing() {
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "num_hidden_layers", Some(json!(40)));
    fails_naming(
        &mut generate(model.path()),
        &["flax_model.msgpack", "model/layers/"],
    );
}

#[test]
fn a_tensor_left_over() {
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "num_hidden_layers", Some(json!(1)));
    fails_naming(
        &mut generate(model.path()),
        &["flax_model.msgpack", "model/layers/1/"],
    );
}

#[test]
fn an_index_that_names_a_missing_shard() {
    let model = copy_of("random-sharded");
    let mut shards: Vec<_> = fs::read_dir(model.path())
        .expect("listed")
        .map(|entry| {
            entry
                .expect("listed")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.starts_with("flax_model-"))
        .collect();
    shards.sort();
    let lost = shards.last().expect("a shard");
    fs::remove_file(model.path().join(lost)).expect("removed");
    fails_naming(&mut generate(model.path()), &["index.json", lost]);
}

#[test]
fn a_prompt_longer_than_max_position_embeddings() {
    let config = fs::read_to_string(data("gemma-small/config.json")).expect("read");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let limit = config["max_position_embeddings"]
        .as_u64()
        .expect("a number") as usize;
    let line = json!({ "token_ids": vec![5; limit] }).to_string();
    fails_naming(
        &mut generate_line(&data("gemma-small"), &line),
        &["prompt 0", "max_position_embeddings", &limit.to_string()],
    );
}

#[test]
fn a_token_id_outside_of_the_vocabulary() {
    fails_naming(
        &mut generate_line(
            &data("gemma-small"),
            "{\"token_ids\": [2]}\n{\"token_ids\": [2, 4000000000]}\n",
        ),
        &["prompt 1", "4000000000", "vocabulary"],
    );
}

#[test]
fn an_empty_prompt_file() {
    for name in ["prompts.txt", "prompts.jsonl"] {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join(name);
        fs::write(&file, "").expect("written");
        let mut command = gemma_xla();
        command
            .arg("generate")
            .arg("--model")
            .arg(data("gemma-small"));
        fails_naming(command.arg("--input").arg(&file), &[name, "no prompts"]);
    }
}

#[test]
fn a_prompt_file_that_is_missing_or_no_text() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("prompts.txt");
    let run = |file: &Path| {
        let mut command = gemma_xla();
        command
            .arg("generate")
            .arg("--model")
            .arg(data("gemma-small"));
        command.arg("--input").arg(file);
        command
    };
    fails_naming(&mut run(&file), &["prompts.txt"]);
    fs::write(&file, b"fine\n\xff\xfe\n").expect("written");
    fails_naming(&mut run(&file), &["prompts.txt", "UTF-8", "byte 5"]);
}

#[test]
fn a_line_of_json_that_is_no_prompt() {
    let model = data("gemma-small");
    for (line, part) in [
        ("{\"token_ids\": [2, -1]}", "line 1"),
        ("{\"token_ids\": [2]}\n{\"text\": \"x\"}", "line 2"),
        ("{}", "neither"),
        ("{\"prompt\": \"x\", \"token_ids\": [2]}", "both"),
        ("{\"token_ids\": []}", "no tokens"),
    ] {
        fails_naming(&mut generate_line(&model, line), &["standard input", part]);
    }
}

#[test]
fn a_text_prompt_without_a_tokenizer() {
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("tokenizer.json")).expect("removed");
    fails_naming(
        &mut generate_line(model.path(), "{\"prompt\": \"x\"}"),
        &["line 1", "tokenizer.json"],
    );
}

#[test]
fn a_tokenizer_that_is_none() {
    let model = copy_of("gemma-small");
    fs::write(model.path().join("tokenizer.json"), "{}").expect("written");
    fails_naming(&mut generate(model.path()), &["tokenizer.json"]);
}

#[test]
fn a_plugin_file_that_is_no_plugin() {
    let text = data("gemma-small/config.json");
    fails_naming(
        generate(&data("gemma-small")).arg("--device").arg(&text),
        &["config.json"],
    );
    fails_naming(
        generate(&data("gemma-small")).args(["--device", "no/such/plugin.so"]),
        &["no/such/plugin.so"],
    );
}

#[test]
fn a_device_that_is_none() {
    fails_naming(
        generate(&data("gemma-small")).args(["--device", "abacus"]),
        &["abacus", "cpu"],
    );
}

#[test]
fn no_plugin_installed_says_which_command_installs_it() {
    let empty = TempDir::new().expect("a folder");
    fails_naming(
        generate(&data("gemma-small"))
            .env_remove("GEMMA_XLA_PLUGIN_CPU")
            .env("GEMMA_XLA_PLUGINS", empty.path()),
        &["gemma-xla plugin install cpu"],
    );
}

#[test]
fn an_output_that_cannot_be_written() {
    let folder = TempDir::new().expect("a folder");
    let output = folder.path().join("missing/out.jsonl");
    fails_naming(
        generate(&data("gemma-small")).arg("--output").arg(&output),
        &["--output", "missing/out.jsonl"],
    );
}

#[test]
fn a_reference_that_is_none_or_of_another_model() {
    let parity = |reference: &Path| {
        let mut command = gemma_xla();
        command
            .arg("parity")
            .arg("--model")
            .arg(data("gemma-small"))
            .arg(reference);
        command
    };
    fails_naming(
        &mut parity(&data("gemma-small/config.json")),
        &["config.json", "npz"],
    );
    fails_naming(&mut parity(Path::new("no/such.npz")), &["no/such.npz"]);
    fails_naming(
        &mut parity(&data("random-sharded/reference-float32.npz")),
        &["reference-float32.npz", "vocab_size"],
    );
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["generate"][..],
        &["generate", "--model", "x", "--dtype", "f8"],
        &["generate", "--model", "x", "--max-new-tokens", "0"],
        &["no-such-command"],
    ] {
        let output = gemma_xla()
            .args(arguments)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_tokenizer_that_makes_its_library_panic_is_one_line_and_nothing_else() {
    let whole = fs::read_to_string(data("gemma-small/tokenizer.json")).expect("read");
    let edits: [&dyn Fn(&mut serde_json::Value); 2] = [
        // A template with a token that it does not declare: encoding panics, where the tokenizer's
        // class obeys the template.
        &|tokenizer| {
            tokenizer["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<bos>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {}
            });
        },
        // More characters to strip than the shortest token has: decoding panics.
        &|tokenizer| {
            tokenizer["decoder"] =
                json!({"type": "Strip", "content": "e", "start": 0, "stop": 100});
        },
    ];
    for edit in edits {
        let mut tokenizer = serde_json::from_str(&whole).expect("JSON");
        edit(&mut tokenizer);
        let model = copy_of("gemma-small");
        let write = |name: &str, text: String| fs::write(model.path().join(name), text);
        write("tokenizer.json", tokenizer.to_string()).expect("written");
        let class = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        write("tokenizer_config.json", class.to_string()).expect("written");
        let mut command = gemma_xla();
        command.args(["generate", "eeee", "--max-new-tokens", "2", "--model"]);
        command.arg(model.path());
        let output = command.output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.starts_with("error: ") && stderr.contains("tokenizer.json"),
            "{stderr}"
        );
    }
}
