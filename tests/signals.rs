//! Signals that end a run, through the binary: nothing finished is lost, and no temporary file or
//! folder stays. What a killed process leaves is removed by the next run.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{data, installed};
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A run, with its messages in no one's way.
fn spawn(command: &mut Command) -> Child {
    let command = command.env("GEMMA_XLA_CACHE", "off").stdin(Stdio::null());
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary runs")
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
}

fn send(signal: &str, process: u32) {
    let killed = Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .status();
    assert!(killed.expect("kill runs").success(), "{signal}");
}

fn wait_for(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < PATIENCE, "nothing happens");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("listed").file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A file of safetensors with a tensor of this many bytes, nearly all of which are holes.
fn large_checkpoint(folder: &Path, bytes: u64) {
    let header = json!({"a": {"dtype": "F32", "shape": [bytes / 4], "data_offsets": [0, bytes]}});
    let header = header.to_string();
    let file = File::create(folder.join("model.safetensors")).expect("created");
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    file.write_all_at(&start, 0).expect("written");
    file.set_len(start.len() as u64 + bytes).expect("set");
}

#[test]
fn convert_leaves_nothing_after_any_signal() {
    let source = TempDir::new().expect("a folder");
    large_checkpoint(source.path(), 1 << 30);
    for signals in [&["INT"][..], &["TERM"], &["HUP"], &["INT", "INT"]] {
        let place = TempDir::new().expect("a folder");
        let out = place.path().join("out");
        let mut child = spawn(
            binary()
                .arg("convert")
                .arg(source.path())
                .arg(&out)
                .args(["--to", "npz"]),
        );
        wait_for(|| {
            names(place.path())
                .iter()
                .any(|name| name.ends_with(".partial"))
        });
        for signal in signals {
            send(signal, child.id());
        }
        assert_eq!(
            child.wait().expect("it ends").code(),
            Some(130),
            "{signals:?}"
        );
        assert_eq!(names(place.path()), [""; 0], "{signals:?}");
    }
}

fn generate(place: &Path, tokens: &str) -> Command {
    let mut command = binary();
    command.args(["generate", "She", "--max-new-tokens", tokens, "--model"]);
    command.arg(data("gemma-small"));
    command.arg("--output").arg(place.join("results.jsonl"));
    command
}

#[test]
fn generate_leaves_the_old_results_and_nothing_else_after_any_signal() {
    if !installed("cpu") {
        return;
    }
    // The first signal ends the run where results can be written, the second at once.
    for (signals, status) in [
        (&["INT"][..], 130),
        (&["TERM"], 130),
        (&["HUP"], 130),
        (&["INT", "TERM"], 143),
        (&["HUP", "INT"], 130),
    ] {
        let place = TempDir::new().expect("a folder");
        let output = place.path().join("results.jsonl");
        fs::write(&output, "of an earlier run\n").expect("written");
        let mut child = spawn(&mut generate(place.path(), "400"));
        // It has its unfinished file: from here on it finishes what it has.
        wait_for(|| names(place.path()).len() == 2);
        for signal in signals {
            send(signal, child.id());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(
            child.wait().expect("it ends").code(),
            Some(status),
            "{signals:?}"
        );
        let kept = fs::read_to_string(&output).expect("read");
        assert_eq!(kept, "of an earlier run\n", "{signals:?}");
        assert_eq!(names(place.path()), ["results.jsonl"], "{signals:?}");
    }
}

#[test]
fn a_run_that_was_started_with_nohup_goes_on_when_its_terminal_is_closed() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let run = generate(place.path(), "4");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    let mut child = spawn(shell.arg(run.get_program()).args(run.get_args()));
    wait_for(|| !names(place.path()).is_empty());
    send("HUP", child.id());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(names(place.path()), ["results.jsonl"]);
}

/// An installation whose pip has begun and does not end, and pip's process.
fn hanging_install(place: &Path) -> (Child, u32) {
    let plugins = place.join("plugins");
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/fake_python");
    let child = spawn(
        binary()
            .args(["plugin", "install", "cpu"])
            .env("GEMMA_XLA_PLUGINS", &plugins)
            .env("GEMMA_XLA_PYTHON", python)
            .env("FAKE_PIP", "hangs"),
    );
    let pip = || {
        let folder = names(&plugins).into_iter().next()?;
        let text = fs::read_to_string(plugins.join(folder).join("pid")).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    };
    wait_for(|| pip().is_some());
    (child, pip().expect("it has begun"))
}

fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    // One that ended and that nobody waited for is a zombie.
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn an_installation_and_its_pip_leave_nothing_after_any_signal() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let place = TempDir::new().expect("a folder");
        let (mut child, pip) = hanging_install(place.path());
        send(signal, child.id());
        assert_eq!(child.wait().expect("it ends").code(), Some(status));
        wait_for(|| !is_alive(pip));
        assert_eq!(names(&place.path().join("plugins")), [""; 0], "{signal}");
    }
}

#[test]
fn what_a_killed_installation_left_is_removed_once_its_pip_has_ended() {
    let place = TempDir::new().expect("a folder");
    let plugins = place.path().join("plugins");
    let (mut child, pip) = hanging_install(place.path());
    send("KILL", child.id());
    child.wait().expect("it ends");
    let install = || {
        let mut command = binary();
        command.args(["plugin", "install", "cpu", "--wheel", "no/such/wheel"]);
        let status = spawn(command.env("GEMMA_XLA_PLUGINS", &plugins)).wait();
        assert_eq!(status.expect("it ends").code(), Some(1));
    };
    install();
    assert_eq!(names(&plugins).len(), 1, "pip still writes there");
    send("KILL", pip);
    wait_for(|| !is_alive(pip));
    install();
    assert_eq!(names(&plugins), [""; 0]);
}

#[test]
fn a_signal_while_programs_are_compiled_leaves_whole_entries_alone_in_the_cache() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let cache = place.path().join("programs");
    for (round, signal) in ["TERM", "HUP", "INT"].iter().cycle().take(12).enumerate() {
        let mut command = binary();
        command.args(["score", "She", "--perplexity", "--model"]);
        command.arg(data("gemma-small"));
        command.env("GEMMA_XLA_CACHE", &cache).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary runs");
        std::thread::sleep(Duration::from_millis(40 * (round as u64 + 1)));
        send(signal, child.id());
        child.wait().expect("it ends");
        let left = names(&cache);
        assert!(
            left.iter().all(|name| name.ends_with(".program")),
            "{left:?}"
        );
        let _ = fs::remove_dir_all(&cache);
    }
}

#[test]
fn what_a_killed_process_left_in_the_cache_is_removed_by_the_next_though_all_is_cached() {
    if !installed("cpu") {
        return;
    }
    let place = TempDir::new().expect("a folder");
    let cache = place.path().join("programs");
    let run = || {
        let mut command = generate(place.path(), "2");
        command.env("GEMMA_XLA_CACHE", &cache).stderr(Stdio::null());
        assert!(command.status().expect("the binary runs").success());
    };
    run();
    let entries = names(&cache);
    fs::write(cache.join(".unfinished-abc"), "half").expect("written");
    fs::write(place.path().join(".unfinished-abc"), "half").expect("written");
    run();
    assert_eq!(names(&cache), entries);
    assert_eq!(names(place.path()), ["programs", "results.jsonl"]);
}
