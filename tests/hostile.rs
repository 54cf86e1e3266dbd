//! What an attacker or a bad day does, through the binary: one clear line, and nothing lost.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{copy_of, data, edit_json, fails_naming, gemma_xla, installed};
use serde_json::json;
use tempfile::TempDir;

fn generate(model: &Path) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command.args(["generate", "She", "--model"]).arg(model);
    command
}

#[test]
fn what_does_not_fit_into_memory_is_refused_with_both_figures() {
    if !installed("cpu") {
        return;
    }
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "max_position_embeddings", Some(json!(i32::MAX)));
    for new in ["2147483640", "2000000000"] {
        fails_naming(
            generate(model.path()).args(["--max-new-tokens", new]),
            &["GB of memory", "are available", "max_new_tokens"],
        );
    }
}

#[test]
fn more_devices_than_a_cpu_can_be_divided_into_are_refused_at_once() {
    for count in ["1000000", "1025"] {
        let started = std::time::Instant::now();
        fails_naming(
            generate(&data("gemma-small")).args(["--devices", count]),
            &[&format!("{count} CPU devices"), "the most is 1024"],
        );
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_not_used_and_the_warning_says_what_mends_it() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let cache = place.path().join("programs");
    let run = || {
        let output = generate(&data("gemma-small"))
            .args(["--max-new-tokens", "2"])
            .env("GEMMA_XLA_CACHE", &cache)
            .output()
            .expect("the binary runs");
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (said.contains("chmod go-w"), said)
    };
    assert!(!run().0);
    assert_eq!(
        cache.metadata().expect("made").permissions().mode() & 0o777,
        0o700
    );
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).expect("set");
    let (warned, said) = run();
    assert!(warned && said.contains("compiling it again"), "{said}");
    fs::set_permissions(&cache, Permissions::from_mode(0o755)).expect("set");
    let (warned, said) = run();
    assert!(!warned && said.contains("cached programs"), "{said}");
}

#[test]
fn of_several_conversions_to_one_folder_one_succeeds() {
    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
                .arg("convert")
                .arg(data("gemma-small"))
                .arg(&out)
                .args(["--to", "npz"])
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary runs")
        })
        .collect();
    let mut succeeded = 0;
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => succeeded += 1,
            code => assert!(code == Some(1) && said.contains("exists already"), "{said}"),
        }
    }
    assert_eq!(succeeded, 1);
    let left: Vec<_> = fs::read_dir(place.path()).expect("listed").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn conversions_that_were_killed_leave_nothing_behind_and_lose_nothing() {
    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let convert = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-xla"));
        command.arg("convert").arg(data("gemma-small")).arg(&out);
        command.args(["--to", "safetensors", "--force"]);
        command.stderr(Stdio::null());
        command
    };
    assert!(convert().status().expect("the binary runs").success());
    for pause in 0..30 {
        let mut child = convert().spawn().expect("the binary runs");
        std::thread::sleep(Duration::from_millis(pause * 5));
        // It may have ended.
        let _ = child.kill();
        child.wait().expect("it ends");
        let mut inspect = gemma_xla();
        inspect.arg("inspect").arg(&out).assert().success();
    }
    assert!(convert().status().expect("the binary runs").success());
    let left: Vec<_> = fs::read_dir(place.path()).expect("listed").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
