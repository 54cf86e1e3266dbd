//! What the end-to-end tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// The binary under test.
pub fn gemma_xla() -> Command {
    let mut command = Command::cargo_bin("gemma-xla").expect("the binary is built with its tests");
    // Whatever the caller's shell has set up for its own use must not decide a test.
    command.env_remove("GEMMA_XLA_LOG");
    // Nor what an earlier run has compiled.
    command.env("GEMMA_XLA_CACHE", "off");
    command
}

/// A folder or file in tests/data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// The checkpoints in tests/data: folders with a config.json.
pub fn checkpoints() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(data(""))
        .expect("tests/data is there")
        .map(|entry| entry.expect("tests/data can be listed").path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    found.sort();
    assert!(found.len() >= 6, "only {} checkpoints", found.len());
    found
}

/// A copy of a checkpoint that a test may damage.
pub fn copy_of(name: &str) -> TempDir {
    let copy = TempDir::new().expect("a temporary folder");
    for entry in fs::read_dir(data(name)).expect("the checkpoint is there") {
        let path = entry.expect("the checkpoint can be listed").path();
        let to = copy
            .path()
            .join(path.file_name().expect("a file has a name"));
        fs::copy(&path, to).expect("the checkpoint can be copied");
    }
    copy
}

/// Makes 64 weights of the down projection that comes in `place` of a copy's file, from 0, 1.0,
/// whatever the element type's size.
pub fn spoil_down_projection(copy: &TempDir, place: usize) {
    let file = copy.path().join("flax_model.msgpack");
    let mut bytes = fs::read(&file).expect("the checkpoint can be read");
    let key = b"down_proj";
    let windows = bytes.windows(key.len()).enumerate();
    let mut found = windows.filter_map(|(at, window)| (window == key).then_some(at));
    let at = found.nth(place).expect("a down_proj");
    for pair in bytes[at + 512..at + 640].chunks_exact_mut(2) {
        pair.copy_from_slice(&[0x80, 0x3f]);
    }
    fs::write(&file, bytes).expect("the checkpoint can be written");
}

/// Replaces a key of a JSON file; `None` removes it.
pub fn edit_json(file: &Path, key: &str, value: Option<serde_json::Value>) {
    let text = fs::read_to_string(file).expect("the file can be read");
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&text).expect("the file is a JSON object");
    match value {
        Some(value) => object.insert(key.to_owned(), value),
        None => object.remove(key),
    };
    let text = serde_json::to_string(&object).expect("JSON can be written");
    fs::write(file, text).expect("the file can be written");
}

/// Runs the binary, which must fail with exit status 1 and one `error: …` line that has all of
/// `parts`, and print nothing on standard output.
pub fn fails_naming(command: &mut Command, parts: &[&str]) {
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(output.stdout, b"", "nothing half done on standard output");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "one line: {stderr}");
    assert_eq!(
        stderr.lines().last(),
        Some(errors[0]),
        "the error ends what is printed: {stderr}"
    );
    for part in parts {
        assert!(errors[0].contains(part), "no {part:?} in: {}", errors[0]);
    }
}

/// Whether the tests must all run: a plugin or file that one needs and that is not there is then a
/// failure.
pub fn all_must_run() -> bool {
    std::env::var_os("GEMMA_XLA_TESTS").is_some_and(|value| value == "all")
}

/// Whether the plugin for a device is here. Where it is not, the test says so, and fails if
/// [`all_must_run`].
pub fn installed(device: &str) -> bool {
    match gemma_xla::plugin::locate(device) {
        Ok(_) => true,
        Err(error @ gemma_xla::plugin::Error::NotInstalled { .. }) => {
            assert!(!all_must_run(), "{error}");
            eprintln!("not tested: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}
