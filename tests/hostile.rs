//! What an attacker or a bad day does, through the binary: one clear line, and nothing lost.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
fn a_conversation_that_does_not_fit_into_memory_is_refused_before_the_checkpoint_is_read() {
    if !installed("cpu") {
        return;
    }
    let model = copy_of("gemma-small");
    let config = model.path().join("config.json");
    edit_json(&config, "max_position_embeddings", Some(json!(i32::MAX)));
    let length = i32::MAX.to_string();
    fails_naming(
        gemma_xla()
            .args(["chat", "--max-length", &length, "--model"])
            .arg(model.path())
            .write_stdin("She\n"),
        &[
            "the parameters, with the caches, need",
            "GB of memory",
            "positions (prompt and max_new_tokens) would fit",
        ],
    );
}

/// Runs a batch of short prompts in this much address space, in kibibytes.
fn batch_within(rows: usize, kibibytes: u64) -> std::process::Output {
    let place = TempDir::new().expect("a folder");
    let input = place.path().join("prompts.jsonl");
    fs::write(&input, "{\"token_ids\": [2, 638, 405]}\n".repeat(rows)).expect("written");
    Command::new("sh")
        .args(["-c", &format!("ulimit -v {kibibytes}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_gemma-xla"))
        .args([
            "generate",
            "--max-new-tokens",
            "2",
            "--batch-size",
            &rows.to_string(),
        ])
        .arg("--model")
        .arg(data("gemma-small"))
        .arg("--input")
        .arg(&input)
        .env("GEMMA_XLA_CACHE", "off")
        .output()
        .expect("it runs")
}

#[test]
fn temporaries_that_do_not_fit_beside_the_caches_are_refused_before_the_checkpoint_is_read() {
    if !installed("cpu") {
        return;
    }
    // Caches of 0.5 GB, and temporaries of 1.7 GB, of which only the compiler knows.
    let output = batch_within(16_384, 3_000_000);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    for part in [
        "the parameters, with the caches, tables and temporaries of program 'prefill', need 2.",
        "GB are available",
        "of 16384 rows (batch_size) would fit",
    ] {
        assert!(last.contains(part), "no {part:?} in: {said}");
    }
    let output = batch_within(64, 3_000_000);
    assert!(output.status.success(), "{output:?}");
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

#[test]
fn a_name_of_many_megabytes_makes_a_short_line() {
    let folder = TempDir::new().expect("a folder");
    let header =
        json!({"n".repeat(30 << 20): {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}});
    let header = header.to_string();
    let file = folder.path().join("model.safetensors");
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&file, [&length[..], header.as_bytes(), &[0; 8]].concat()).expect("written");
    for command in ["inspect", "convert"] {
        let mut run = gemma_xla();
        run.arg(command).arg(&file);
        if command == "convert" {
            run.arg(folder.path().join("out")).args(["--to", "npz"]);
        }
        let output = run.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{}", said.len());
        assert!(
            said.contains("error: ") && said.len() < 20_000,
            "{}",
            said.len()
        );
    }
}

#[test]
fn a_fifo_in_place_of_a_file_of_an_earlier_run_does_not_hang() {
    for name in ["out.jsonl", "out.jsonl.run.json"] {
        let place = TempDir::new().expect("a folder");
        let output = place.path().join("out.jsonl");
        let made = Command::new("mkfifo").arg(place.path().join(name)).status();
        assert!(made.expect("it runs").success());
        fails_naming(
            generate(&data("gemma-small"))
                .args(["--resume", "--format", "jsonl", "--output"])
                .arg(&output)
                .timeout(Duration::from_secs(60)),
            &["out.jsonl", "not a regular file"],
        );
    }
}

#[test]
fn an_output_keeps_its_link_and_its_mode_and_is_checked_before_anything_runs() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let (file, link) = (place.path().join("file"), place.path().join("link"));
    fs::write(&file, "of an earlier run\n").expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("set");
    std::os::unix::fs::symlink("file", &link).expect("linked");
    let mut run = generate(&data("gemma-small"));
    run.args(["--max-new-tokens", "2", "--output"]).arg(&link);
    run.assert().success();
    assert!(link.is_symlink());
    let written = fs::read_to_string(&file).expect("read");
    assert!(written.starts_with("She"), "{written}");
    let mode = file.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A plugin that is none would be an error too: the output comes first.
    for name in [&"n".repeat(300), "missing/out", "."] {
        fails_naming(
            generate(&data("gemma-small"))
                .args(["--device", "/dev/null", "--output"])
                .arg(place.path().join(name)),
            &["--output"],
        );
        let reference = data("gemma-small/reference-float32.npz");
        fails_naming(
            gemma_xla()
                .args(["parity", "--device", "/dev/null", "--model"])
                .arg(data("gemma-small"))
                .arg(reference)
                .arg("--report")
                .arg(place.path().join(name)),
            &["--report"],
        );
    }
}

#[test]
fn a_disk_that_is_full_leaves_the_old_results_and_pages() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let reference = data("gemma-small/reference-float32.npz");
    let model = data("gemma-small");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    // More than a kilobyte of results.
    let generate =
        "generate She He The It A We They You --max-new-tokens 60 --format jsonl --output";
    let generate: Vec<&str> = generate.split(' ').collect();
    let parity = ["parity", &text(&reference), "--report"];
    for arguments in [&generate[..], &parity] {
        fs::write(&out, "of an earlier run\n").expect("written");
        // With the signal ignored, a write past the limit on the size of files fails as one on a
        // full disk does.
        let output = Command::new("bash")
            .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "bash"])
            .arg(env!("CARGO_BIN_EXE_gemma-xla"))
            .args(arguments)
            .arg(&out)
            .arg("--model")
            .arg(&model)
            .env("GEMMA_XLA_CACHE", "off")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("File too large"), "{said}");
        let kept = fs::read_to_string(&out).expect("read");
        assert_eq!(kept, "of an earlier run\n", "{arguments:?}");
        assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 1);
    }
}

#[test]
fn names_that_are_not_utf8_are_in_json_all_the_same() {
    use std::os::unix::ffi::OsStrExt;

    let place = TempDir::new().expect("a folder");
    let folder = place.path().join(std::ffi::OsStr::from_bytes(b"mo\xffdel"));
    fs::create_dir(&folder).expect("made");
    for file in ["config.json", "flax_model.msgpack"] {
        fs::copy(data("gemma-small").join(file), folder.join(file)).expect("copied");
    }
    let mut inspect = gemma_xla();
    let output = inspect.args(["inspect", "--json"]).arg(&folder).output();
    let output = output.expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report.to_string().contains("mo\u{fffd}del"), "{report}");
}

/// Each id costs the same however many there are, and there is a bound on how many.
#[test]
fn a_list_of_millions_of_ids_is_refused_at_once() {
    let copy = copy_of("gemma-small");
    for file in ["config.json", "generation_config.json"] {
        let path = copy.path().join(file);
        let before = fs::read(&path).unwrap_or_else(|_| b"{}".to_vec());
        fs::write(&path, &before).expect("it is written");
        let ids: Vec<u32> = (0..1_800_000).collect();
        edit_json(&path, "eos_token_id", Some(ids.into()));
        let began = Instant::now();
        let mut command = gemma_xla();
        command.args(["generate", "a", "--model"]).arg(copy.path());
        fails_naming(&mut command, &[file, "eos_token_id"]);
        assert!(began.elapsed() < Duration::from_secs(60), "{file}");
        fs::write(&path, before).expect("it is written");
    }
}
