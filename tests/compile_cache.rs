//! Compiled programs on disk: that they are taken, that no wrong one is, and that nothing about the
//! folder stops a run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{data, gemma_xla};
use gemma_xla::compile_cache::{CompileCache, Key, Origin};
use gemma_xla::pjrt::{Client, CompileOptions, ExecuteOptions, OptionValue, Plugin};
use gemma_xla::plugin;
use hlo::{Builder, ElementType, Module};
use tempfile::TempDir;

const ARGUMENTS: [&str; 7] = [
    "generate",
    "--dtype",
    "f32",
    "--format",
    "jsonl",
    "--max-new-tokens",
    "8",
];
const PROMPT: &str = "It is a truth universally acknowledged";

/// A run of the small Gemma with this cache folder.
fn command(cache: &Path) -> Command {
    let mut command = Command::new(gemma_xla().get_program());
    command
        .args(ARGUMENTS)
        .arg("--model")
        .arg(data("gemma-small"))
        .arg(PROMPT)
        .env("GEMMA_XLA_CACHE", cache)
        .env_remove("GEMMA_XLA_LOG");
    command
}

/// Standard output and standard error of a run, which must succeed.
fn run(mut command: Command) -> (String, String) {
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).expect("text");
    (stdout, stderr)
}

/// What the run prints where there is no cache.
fn expected() -> String {
    run(command(Path::new("off"))).0
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache)
        .expect("the cache is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|e| e == "program"))
        .collect();
    found.sort();
    found
}

fn warned(stderr: &str) -> bool {
    stderr.lines().any(|l| l.contains("compile cache"))
}

#[test]
fn a_second_run_compiles_nothing_and_gives_the_same() {
    let cache = TempDir::new().expect("a folder");
    let folder = cache.path().join("made/when/needed");
    let (first, stderr) = run(command(&folder));
    assert_eq!(first, expected());
    assert!(!stderr.contains("cached programs"), "{stderr}");
    assert_eq!(entries(&folder).len(), 2, "a prefill and a decode program");
    let (second, stderr) = run(command(&folder));
    assert_eq!(second, first);
    assert!(
        stderr.contains("compile 0.00 s (cached programs"),
        "{stderr}"
    );
    assert!(!warned(&stderr), "{stderr}");
}

#[test]
fn damaged_cut_empty_and_exchanged_entries_are_replaced_with_a_warning() {
    let cache = TempDir::new().expect("a folder");
    let (first, _) = run(command(cache.path()));
    let files = entries(cache.path());
    let whole: Vec<Vec<u8>> = files
        .iter()
        .map(|file| fs::read(file).expect("an entry"))
        .collect();
    let middle = whole[0].len() / 2;
    let mut flipped = whole[0].clone();
    flipped[middle] ^= 0x40;
    let damages: [(&str, &[u8]); 5] = [
        ("damaged", &flipped),
        ("damaged", &whole[0][..middle]),
        ("not the entry", b""),
        ("not the entry", b"something else altogether"),
        // A whole entry of another program, under this one's name.
        ("not the entry", &whole[1]),
    ];
    for (reason, bytes) in damages {
        fs::write(&files[0], bytes).expect("the entry can be damaged");
        let (output, stderr) = run(command(cache.path()));
        assert_eq!(output, first);
        assert!(warned(&stderr) && stderr.contains(reason), "{stderr}");
        let (output, stderr) = run(command(cache.path()));
        assert_eq!(output, first);
        assert!(!warned(&stderr), "it was rebuilt: {stderr}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_a_warning() {
    let place = TempDir::new().expect("a folder");
    let file = place.path().join("file");
    fs::write(&file, "no folder").expect("a file");
    // Neither a file nor the kernel's own file system takes a folder, whoever runs the test.
    for folder in [file.join("below"), file, "/proc/gemma-xla-cache".into()] {
        let (output, stderr) = run(command(&folder));
        assert_eq!(output, expected());
        assert!(warned(&stderr), "{}: {stderr}", folder.display());
    }
}

#[test]
fn a_disk_that_is_full_is_a_warning_and_leaves_no_entry() {
    let cache = TempDir::new().expect("a folder");
    // With the signal ignored, a write past the limit on the size of files fails as one on a full
    // disk does.
    let inner = command(cache.path());
    let mut limited = Command::new("bash");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "bash"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env("GEMMA_XLA_CACHE", cache.path());
    let (output, stderr) = run(limited);
    assert_eq!(output, expected());
    assert!(warned(&stderr), "{stderr}");
    let left = fs::read_dir(cache.path()).expect("the folder").count();
    assert_eq!(left, 0, "nothing unfinished stays");
}

#[test]
fn processes_that_fill_one_cache_at_once_are_all_right() {
    let cache = TempDir::new().expect("a folder");
    let children: Vec<_> = (0..3)
        .map(|_| {
            command(cache.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary runs")
        })
        .collect();
    let expected = expected();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        assert!(!warned(&stderr), "{stderr}");
    }
    let (output, stderr) = run(command(cache.path()));
    assert_eq!(output, expected);
    assert!(
        stderr.contains("compile 0.00 s (cached programs"),
        "{stderr}"
    );
}

#[test]
fn a_killed_process_leaves_nothing_that_a_later_one_trips_over() {
    let cache = TempDir::new().expect("a folder");
    let expected = expected();
    for delay in (0..12).map(|i| 100 + i * 60) {
        let mut child = command(cache.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        if delay % 180 == 100 {
            let (output, stderr) = run(command(cache.path()));
            assert_eq!(output, expected);
            assert!(!warned(&stderr), "{stderr}");
            for entry in entries(cache.path()) {
                fs::remove_file(entry).expect("so that the next process writes again");
            }
        }
    }
}

fn client() -> Client {
    let located = plugin::find("cpu").expect("the CPU plugin is installed");
    let plugin = Plugin::open(&located.file, &[]).expect("it loads");
    Client::new(&plugin, &[]).expect("a client")
}

/// A program that returns `value`.
fn constant(value: f64) -> Module {
    let b = Builder::new("constant");
    let root = b.scalar(ElementType::F32, value).expect("a constant");
    Module::new("constant", b.finish(root).expect("a computation"))
}

#[test]
fn the_folder_stays_within_its_bound_and_keeps_what_was_used_last() {
    let place = TempDir::new().expect("a folder");
    let client = client();
    let options = CompileOptions::default();
    let load = |cache: &CompileCache, value: f64| {
        let (executable, origin) = cache
            .load_or_compile(&client, &constant(value), &options)
            .expect("it compiles");
        let device = &client.addressable_devices()[0];
        assert_eq!(device.id(), 0);
        let results = executable
            .execute(&[vec![]], &ExecuteOptions::default())
            .expect("it runs");
        let result = results[0][0].to_vec_f32().expect("a result");
        assert_eq!(result, [value as f32]);
        origin
    };
    let unbounded = CompileCache::in_folder(place.path().to_owned(), u64::MAX);
    assert_eq!(load(&unbounded, 0.0), Origin::Compiled);
    let one = entries(place.path())[0].metadata().expect("an entry").len();
    let abandoned = place.path().join(".unfinished-1");
    fs::write(&abandoned, "what a killed process left").expect("a file");
    let long_ago = SystemTime::now() - Duration::from_secs(100_000);
    fs::File::open(&abandoned)
        .and_then(|file| file.set_modified(long_ago))
        .expect("an old file");

    let room_for_three = CompileCache::in_folder(place.path().to_owned(), one * 7 / 2);
    for value in [1.0, 2.0] {
        assert_eq!(load(&room_for_three, value), Origin::Compiled);
    }
    assert!(!abandoned.exists());
    // Times of modification tell which was used last: make sure that they differ.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(load(&room_for_three, 0.0), Origin::Cached);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(load(&room_for_three, 3.0), Origin::Compiled);
    let total: u64 = entries(place.path())
        .iter()
        .map(|entry| entry.metadata().expect("an entry").len())
        .sum();
    assert!(total <= one * 7 / 2, "{total} bytes");
    assert_eq!(load(&room_for_three, 0.0), Origin::Cached);
    assert_eq!(load(&room_for_three, 1.0), Origin::Compiled, "the oldest");
}

#[test]
fn program_options_plugin_and_devices_each_change_the_key() {
    let client = client();
    let plain = CompileOptions::default();
    let key = |client: &Client, module: &Module, options: &CompileOptions| {
        Key::new(client, module, options).expect("a key")
    };
    let first = key(&client, &constant(1.0), &plain);
    assert_eq!(first, key(&client, &constant(1.0), &plain));
    let rounded = CompileOptions {
        overrides: vec![(
            "xla_allow_excess_precision".into(),
            OptionValue::Bool(false),
        )],
        ..plain.clone()
    };
    let next = plugin::find("cpu-next").expect("the second CPU plugin is installed");
    let next = Plugin::open(&next.file, &[]).expect("it loads");
    let next = Client::new(&next, &[]).expect("a client");
    let others = [
        key(&client, &constant(2.0), &plain),
        key(&client, &constant(1.0), &rounded),
        key(&next, &constant(1.0), &plain),
    ];
    for (i, other) in others.iter().enumerate() {
        assert_ne!(*other, first, "{i}");
    }
}
