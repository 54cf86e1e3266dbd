//! Executables that were saved are loaded instead of being compiled, and only where they are the
//! very ones. On a CPU, with what an engine saved of its own programs.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::compile_cache::CompileCache;
use gemma_xla::engine::{GenerateOptions, Generation, LoadOptions};
use gemma_xla::source::{LoadedModel, Model};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROMPT: [u32; 3] = [2, 5, 7];
const NEW_TOKENS: usize = 8;

/// A folder with the executables of a batch of one such prompt.
fn saved() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let model = model(&LoadOptions::default());
    let manifest = model
        .engine()
        .save_executables(folder.path(), 1, PROMPT.len(), NEW_TOKENS)
        .expect("they are saved");
    assert_eq!(manifest, folder.path().join("manifest.json"));
    folder
}

fn model(options: &LoadOptions) -> LoadedModel {
    let model = Model::open(data("gemma-small")).expect("the checkpoint opens");
    model.load(options).expect("the checkpoint loads")
}

fn tokens(model: &LoadedModel) -> Vec<Generation> {
    let mut options = GenerateOptions::default();
    options.max_new_tokens = NEW_TOKENS;
    options.batch_size = 1;
    let generated = model.engine().generate(&[PROMPT.to_vec()], &options);
    generated.expect("it generates")
}

/// `generate` through the binary, with executables from `folder`.
fn generate(model: &Path, folder: &Path, new_tokens: usize) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command
        .args(["generate", "--input", "-", "--input-format", "jsonl"])
        .args(["--max-new-tokens", &new_tokens.to_string(), "--model"])
        .arg(model)
        .arg("--executables")
        .arg(folder)
        .env("GEMMA_XLA_CACHE", "off")
        .write_stdin("{\"token_ids\": [2, 5, 7]}\n");
    command
}

fn manifest(folder: &Path) -> Value {
    let text = fs::read(folder.join("manifest.json")).expect("a manifest");
    serde_json::from_slice(&text).expect("JSON")
}

fn write_manifest(folder: &Path, manifest: &Value) {
    let text = serde_json::to_vec(manifest).expect("JSON can be written");
    fs::write(folder.join("manifest.json"), text).expect("written");
}

/// The file of the decode program.
fn decode_file(folder: &Path) -> PathBuf {
    let manifest = manifest(folder);
    let executables = manifest["executables"].as_array().expect("a list");
    let decode = executables
        .iter()
        .find(|executable| executable["program"] == "decode")
        .expect("a decode program");
    folder.join(decode["file"].as_str().expect("a name"))
}

#[test]
fn saved_executables_give_the_same_tokens_and_nothing_is_compiled() {
    let folder = saved();
    let mut options = LoadOptions::default();
    options.compile_cache = CompileCache::default();
    let compiling = model(&options);
    options.executables = Some(folder.path().to_owned());
    let loading = model(&options);
    assert_eq!(tokens(&loading), tokens(&compiling));
    assert!(compiling.engine().times().compile.as_nanos() > 0);
    assert_eq!(loading.engine().times().compile.as_nanos(), 0);

    let output = generate(&data("gemma-small"), folder.path(), NEW_TOKENS)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(line["token_ids"], json!(tokens(&compiling)[0].token_ids));
}

#[test]
fn programs_saved_one_after_another_share_a_folder() {
    let folder = saved();
    let model = model(&LoadOptions::default());
    model
        .engine()
        .save_executables(folder.path(), 1, PROMPT.len(), 100)
        .expect("they are saved");
    let executables = manifest(folder.path())["executables"].clone();
    assert_eq!(executables.as_array().map(Vec::len), Some(4));
    for new_tokens in [NEW_TOKENS, 100] {
        generate(&data("gemma-small"), folder.path(), new_tokens)
            .assert()
            .success();
    }
}

#[test]
fn shapes_that_were_not_saved_are_named_beside_those_that_were() {
    let folder = saved();
    fails_naming(
        &mut generate(&data("gemma-small"), folder.path(), 200),
        &[
            "--executables",
            "manifest.json",
            "prefill",
            "cache 256",
            "cache 64",
        ],
    );
}

#[test]
fn executables_of_another_program_are_refused() {
    let folder = saved();
    let other = copy_of("gemma-small");
    // The same shapes throughout, and another constant in every norm.
    edit_json(
        &other.path().join("config.json"),
        "rms_norm_eps",
        Some(json!(1e-3)),
    );
    fails_naming(
        &mut generate(other.path(), folder.path(), NEW_TOKENS),
        &[
            "--executables",
            "manifest.json",
            "prefill",
            "another program",
        ],
    );
}

#[test]
fn executables_of_another_build_of_the_plugin_are_refused() {
    let folder = saved();
    let mut edited = manifest(folder.path());
    edited["target"]["plugin_sha256"] = json!("0".repeat(64));
    write_manifest(folder.path(), &edited);
    fails_naming(
        &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
        &[
            "--executables",
            "manifest.json",
            "another build of the plugin",
        ],
    );
}

#[test]
fn executables_for_another_mesh_are_refused() {
    let folder = saved();
    let mut command = generate(&data("gemma-small"), folder.path(), NEW_TOKENS);
    command.args(["--mesh", "model=2"]);
    fails_naming(
        &mut command,
        &["--executables", "mesh data=1,model=1", "data=1,model=2"],
    );
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_damaged() {
    let folder = saved();
    let file = decode_file(folder.path());
    let whole = fs::read(&file).expect("the file can be read");
    let name = file.file_name().and_then(|n| n.to_str()).expect("plain");
    for at in [0, 40, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&file, damaged).expect("written");
        fails_naming(
            &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
            &["--executables", name, "damaged"],
        );
    }
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    fails_naming(
        &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
        &["--executables", name, "damaged"],
    );
    fs::remove_file(&file).expect("removed");
    fails_naming(
        &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
        &["--executables", name],
    );
    // It may be anybody's, though the folder is one's own.
    let elsewhere = TempDir::new().expect("a folder");
    let target = elsewhere.path().join("program");
    fs::write(&target, whole).expect("written");
    std::os::unix::fs::symlink(&target, &file).expect("linked");
    fails_naming(
        &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
        &["--executables", name, "symbolic links"],
    );
}

#[test]
fn a_folder_without_a_usable_manifest_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let model = data("gemma-small");
    let manifest_path = folder.path().join("manifest.json");
    fails_naming(
        &mut generate(&model, folder.path(), NEW_TOKENS),
        &["--executables", "manifest.json"],
    );
    for text in ["", "{}", "[1, 2", "{\"format\": 1}"] {
        fs::write(&manifest_path, text).expect("written");
        fails_naming(
            &mut generate(&model, folder.path(), NEW_TOKENS),
            &["--executables", "manifest.json", "invalid manifest"],
        );
    }
}

#[test]
fn a_manifest_that_leads_out_of_its_folder_is_refused() {
    let folder = saved();
    for file in ["../decode.executable", "/etc/passwd", "a/b", ""] {
        let mut edited = manifest(folder.path());
        edited["executables"][0]["file"] = json!(file);
        write_manifest(folder.path(), &edited);
        fails_naming(
            &mut generate(&data("gemma-small"), folder.path(), NEW_TOKENS),
            &[
                "--executables",
                "manifest.json",
                "not a file name in its folder",
            ],
        );
    }
}
