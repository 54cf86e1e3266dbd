//! What the command does with its output streams: closed ones, full ones, terminals, and text that
//! a terminal would obey.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{copy_of, data, edit_json};
use serde_json::json;

fn gemma_xla(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-xla"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["GEMMA_XLA_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("GEMMA_XLA_CACHE", "off").env("TERM", "xterm");
    command
}

fn path(name: &str) -> String {
    data(name).to_str().expect("a name").to_owned()
}

fn generate(model: &Path, arguments: &[&str]) -> Command {
    let mut command = gemma_xla(&["generate", "--dtype", "f32", "--max-new-tokens", "8"]);
    command.arg("--model").arg(model).args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Commands that print much or little, as text and as JSON, each with its exit status when all is
/// well.
fn printing_commands() -> Vec<(Command, i32)> {
    let model = path("gemma-small");
    let reference = path("gemma-small/reference-float32.npz");
    let prompts = ["She", "He", "The"];
    let mut commands = vec![
        (generate(model.as_ref(), &prompts), 0),
        (
            generate(model.as_ref(), &[&prompts[..], &["--stream"]].concat()),
            0,
        ),
        (
            generate(
                model.as_ref(),
                &[&prompts[..], &["--format", "jsonl"]].concat(),
            ),
            0,
        ),
        (gemma_xla(&["inspect", &model]), 0),
        (gemma_xla(&["inspect", "--json", &model]), 0),
        (gemma_xla(&["plugin", "list"]), 0),
        (gemma_xla(&["plugin", "list", "--json"]), 0),
        (gemma_xla(&["parity", "--model", &model, &reference]), 0),
        // The answer is still no when nobody reads why.
        (
            gemma_xla(&[
                "parity",
                "--tolerance",
                "0",
                "--json",
                "--model",
                &model,
                &reference,
            ]),
            1,
        ),
    ];
    if common::installed("tpu") {
        let plan = [
            "plan",
            "--json",
            "--topology",
            "v5e:2x2",
            "--search-seconds",
            "0",
        ];
        let mut plan = gemma_xla(&plan);
        plan.args(["--max-length", "48", "--model", &path("random-mqa")]);
        commands.push((plan, 0));
    }
    commands
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for (mut command, code) in printing_commands() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command.stdout(writer).output().expect("the binary runs");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
        for word in ["error", "panicked", "pipe"] {
            assert!(!stderr.contains(word), "{command:?}: {stderr}");
        }
    }
}

#[test]
fn a_full_standard_output_is_one_error_line() {
    for (mut command, _) in printing_commands() {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("it is there");
        let output = command.stdout(full).output().expect("the binary runs");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
        let errors: Vec<&str> = stderr
            .lines()
            .filter(|l| l.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{command:?}: {stderr}");
        assert!(errors[0].contains("No space left"), "{command:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
    }
}

#[test]
fn a_full_standard_error_takes_nothing_from_the_results() {
    let model = copy_of("gemma-small");
    // A warning by the library, and one by the command line.
    edit_json(
        &model.path().join("config.json"),
        "rope_theta",
        Some(json!(20_000)),
    );
    edit_json(
        &model.path().join("config.json"),
        "max_position_embeddings",
        Some(json!(6)),
    );
    let run = |full: bool| {
        let mut command = generate(model.path(), &["She"]);
        if full {
            command.stderr(
                File::options()
                    .write(true)
                    .open("/dev/full")
                    .expect("opened"),
            );
        }
        command.output().expect("the binary runs")
    };
    let (usual, full) = (run(false), run(true));
    assert_eq!(
        text(&usual.stderr).matches("warning: ").count(),
        2,
        "{usual:?}"
    );
    assert_eq!(full.status.code(), Some(0));
    assert_eq!(full.stdout, usual.stdout);
    let mut failing = gemma_xla(&["inspect", "no/such/folder"]);
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("opened");
    let status = failing.stderr(full).status().expect("the binary runs");
    assert_eq!(status.code(), Some(1), "no panic, which would be 101");
}

#[derive(Clone, Copy, PartialEq)]
enum Terminal {
    Stdout,
    Stderr,
}

/// Runs a command with one of its output streams on a terminal, and returns what it wrote there.
fn on_terminal(command: &mut Command, stream: Terminal) -> (Output, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&controller).expect("granted");
    unlockpt(&controller).expect("unlocked");
    let name = ptsname(&controller, Vec::new()).expect("named");
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("a path"));
    let terminal = terminal.expect("opened");
    match stream {
        Terminal::Stdout => command.stdout(terminal).stderr(Stdio::piped()),
        Terminal::Stderr => command.stdout(Stdio::piped()).stderr(terminal),
    };
    let child = command.spawn().expect("the binary runs");
    // The last of this process's own handles: the terminal ends when the child does.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reading = std::thread::spawn(move || {
        let mut written = Vec::new();
        let mut controller = File::from(controller);
        let mut part = [0; 4096];
        // Linux reports the end of a terminal as an error.
        while let Ok(count @ 1..) = controller.read(&mut part) {
            written.extend(&part[..count]);
        }
        written
    });
    let output = child.wait_with_output().expect("it ends");
    let written = text(&reading.join().expect("read"));
    (output, written.replace("\r\n", "\n"))
}

/// A Gemma that writes a control sequence and an override of the direction of text wherever it
/// would write an e.
fn hostile_model() -> tempfile::TempDir {
    let model = copy_of("gemma-small");
    let file = model.path().join("tokenizer.json");
    let whole = fs::read_to_string(&file).expect("read");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    let decoders = tokenizer["decoder"]["decoders"]
        .as_array_mut()
        .expect("a list");
    let replace =
        |content: &str| json!({"type": "Replace", "pattern": {"String": "e"}, "content": content});
    decoders.insert(1, replace("\u{1b}[31m\u{202e}"));
    fs::write(&file, tokenizer.to_string()).expect("written");
    model
}

#[test]
fn generated_text_is_escaped_on_a_terminal_and_left_as_it_is_in_a_pipe() {
    let model = hostile_model();
    for arguments in [
        &["She"][..],
        &["She", "--stream"],
        &["She", "--format", "jsonl"],
    ] {
        let piped = generate(model.path(), arguments)
            .output()
            .expect("the binary runs");
        let piped = text(&piped.stdout);
        assert!(piped.contains('\u{202e}'), "{piped:?}");
        let mut command = generate(model.path(), arguments);
        let (output, shown) = on_terminal(&mut command, Terminal::Stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(shown.contains("\\u001b[31m\\u202e"), "{shown:?}");
        let expected = piped
            .replace('\u{202e}', "\\u202e")
            .replace('\u{1b}', "\\u001b");
        assert_eq!(shown, expected);
    }
}

/// A safetensors file that says it has one tensor of this name, up to byte `end` of 4.
fn tensor_named(folder: &Path, name: &str, end: usize) -> String {
    let header = json!({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}});
    let header = header.to_string();
    let file = folder.join(format!("{end}.safetensors"));
    let length = (header.len() as u64).to_le_bytes();
    fs::write(&file, [&length[..], header.as_bytes(), &[0; 4]].concat()).expect("written");
    file.to_str().expect("a path").to_owned()
}

#[test]
fn names_in_files_reach_neither_tables_nor_messages_raw() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = "evil\u{1b}]0;title\u{7}\u{202e}name";
    let whole = tensor_named(folder.path(), name, 4);
    let broken = tensor_named(folder.path(), name, 8);
    for (arguments, code) in [
        (&["inspect", &whole][..], 0),
        (&["inspect", "--json", &whole], 0),
        (&["inspect", &broken], 1),
    ] {
        let output = gemma_xla(arguments).output().expect("the binary runs");
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{all:?}");
        assert!(all.contains("evil"), "{arguments:?}: {all}");
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!all.contains(raw), "{arguments:?}: {all:?}");
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let model = copy_of("gemma-small");
    edit_json(
        &model.path().join("config.json"),
        "rope_theta",
        Some(json!(20_000)),
    );
    let redirected = generate(model.path(), &["She"])
        .output()
        .expect("the binary runs");
    let redirected = text(&redirected.stderr);
    let warning = "warning: config.json has rope_theta 20000";
    assert!(
        redirected.lines().any(|l| l.starts_with(warning)),
        "{redirected}"
    );
    assert!(!redirected.contains('\x1b'), "{redirected:?}");

    let run = |name: &str, value: &str| {
        let mut command = generate(model.path(), &["She"]);
        on_terminal(command.env(name, value), Terminal::Stderr).1
    };
    let coloured = run("TERM", "xterm");
    assert!(
        coloured.contains("\x1b[33mwarning:\x1b[0m config.json"),
        "{coloured:?}"
    );
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = run(name, value);
        assert!(plain.contains(warning), "{plain:?}");
        assert!(!plain.contains("\x1b[3"), "{plain:?}");
    }
}

#[test]
fn quiet_leaves_warnings_and_verbose_tells_the_steps() {
    let model = copy_of("gemma-small");
    let run = |arguments: &[&str]| {
        let output = generate(model.path(), arguments)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(0));
        text(&output.stderr)
    };
    assert!(run(&["She"]).contains("new tokens on"));
    assert_eq!(run(&["She", "--quiet"]), "");
    let verbose = run(&["She", "-v"]);
    assert!(
        verbose
            .lines()
            .any(|l| l.starts_with("debug: gemma_xla::engine") && l.contains(" program ")),
        "{verbose}"
    );
    edit_json(
        &model.path().join("config.json"),
        "max_position_embeddings",
        Some(json!(6)),
    );
    let quiet = run(&["-q", "She"]);
    assert_eq!(quiet.lines().count(), 1, "{quiet}");
    assert!(
        quiet.starts_with("warning: prompt 1 of the arguments: prompt 0: only"),
        "{quiet}"
    );
    let both = gemma_xla(&["inspect", "-q", "-v", "x"])
        .output()
        .expect("the binary runs");
    assert_eq!(both.status.code(), Some(2));
}
