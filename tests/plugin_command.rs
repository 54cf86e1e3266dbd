//! `gemma-xla plugin`, through the binary. Where a download is needed, a script stands for Python.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{fails_naming, gemma_xla};
use predicates::prelude::*;
use tempfile::TempDir;

/// The command with a folder for plugins of its own, which is not there yet, and no plugin named in
/// the environment.
fn plugin(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = gemma_xla();
    command.arg("plugin").args(args);
    command.env("GEMMA_XLA_PLUGINS", plugins(folder));
    for name in ["CPU", "CPU_NEXT", "TPU", "CUDA"] {
        command.env_remove(format!("GEMMA_XLA_PLUGIN_{name}"));
    }
    command.env_remove("TPU_LIBRARY_PATH");
    command.env("HOME", folder.path());
    command
}

fn plugins(folder: &TempDir) -> PathBuf {
    folder.path().join("plugins")
}

fn install(folder: &TempDir, fake_pip: &str) -> Command {
    let mut command = plugin(folder, &["install", "cpu"]);
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/fake_python");
    command.env("GEMMA_XLA_PYTHON", python);
    command.env("FAKE_PIP", fake_pip);
    command
}

fn assert_nothing_is_left(folder: &TempDir) {
    if let Ok(entries) = fs::read_dir(plugins(folder)) {
        let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn an_unknown_plugin_is_refused_with_the_names_that_there_are() {
    let folder = TempDir::new().unwrap();
    fails_naming(
        &mut plugin(&folder, &["install", "gpu"]),
        &["\"gpu\"", "cpu", "tpu", "cuda12", "cuda13"],
    );
}

#[test]
fn a_wheel_of_another_hash_is_refused_and_nothing_is_left() {
    let folder = TempDir::new().unwrap();
    let wheel = folder.path().join("some.whl");
    fs::write(&wheel, "abc").unwrap();
    let wheel = wheel.to_str().unwrap();
    fails_naming(
        &mut plugin(&folder, &["install", "cpu", "--wheel", wheel]),
        &[
            "some.whl",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc",
        ],
    );
    assert_nothing_is_left(&folder);
}

#[test]
fn a_download_of_another_hash_is_refused_and_nothing_is_left() {
    let folder = TempDir::new().unwrap();
    fails_naming(
        &mut install(&folder, "gives_another"),
        &["package-1.0-py3-none-any.whl", "sha256", "55837b6b7b47daa7"],
    );
    assert_nothing_is_left(&folder);
}

#[test]
fn a_download_that_fails_gives_pips_reason() {
    let folder = TempDir::new().unwrap();
    for (fake_pip, reason) in [
        ("fails", "ERROR: No matching distribution found"),
        ("lacks_pip", "No module named pip"),
        ("gives_nothing", "without a wheel"),
    ] {
        fails_naming(
            &mut install(&folder, fake_pip),
            &["xla-cpu-pjrt 0.0.1", reason],
        );
        assert_nothing_is_left(&folder);
    }
}

#[test]
fn without_python_the_error_says_what_else_can_be_done() {
    let folder = TempDir::new().unwrap();
    let mut command = install(&folder, "");
    command.env("GEMMA_XLA_PYTHON", "/no/such/python");
    fails_naming(&mut command, &["/no/such/python", "--wheel"]);
    assert_nothing_is_left(&folder);
}

#[test]
fn pip_is_asked_for_the_pinned_version_for_this_kind_of_machine_from_wherever_it_is_set_up_to_look()
{
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("arguments");
    let mut command = install(&folder, "fails");
    command.env("FAKE_PIP_LOG", &log).assert().code(1);
    let arguments = fs::read_to_string(log).unwrap();
    let arguments: Vec<&str> = arguments.lines().collect();
    assert!(arguments.starts_with(&["-I", "-m", "pip", "download"]));
    assert!(arguments.contains(&"xla-cpu-pjrt==0.0.1"));
    assert!(arguments.contains(&"manylinux_2_27_x86_64"));
    assert!(arguments.contains(&"--no-deps"));
    assert!(!arguments.iter().any(|argument| argument.contains("index")));
}

#[test]
fn without_a_plugin_every_way_to_one_names_the_command_that_installs_it() {
    let folder = TempDir::new().unwrap();
    for device in [&[][..], &["cpu"]] {
        let args = [&["doctor"], device].concat();
        fails_naming(
            &mut plugin(&folder, &args),
            &["`gemma-xla plugin install cpu`"],
        );
    }
    fails_naming(
        &mut plugin(&folder, &["doctor", "cuda"]),
        &["`gemma-xla plugin install cuda13`"],
    );
}

#[test]
fn the_list_has_every_plugin_and_the_one_in_use() {
    let folder = TempDir::new().unwrap();
    plugin(&folder, &["list"])
        .assert()
        .success()
        .stdout(predicate::str::contains("xla-cpu-pjrt 0.0.1"))
        .stdout(predicate::str::contains("not installed").count(5));

    let own = folder.path().join("own.so");
    fs::write(&own, "").unwrap();
    let output = plugin(&folder, &["list", "--json"])
        .env("GEMMA_XLA_PLUGIN_CPU", &own)
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = list["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| plugin["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cpu", "cpu-next", "tpu", "cuda12", "cuda13"]);
    assert_eq!(list["devices"]["cpu"]["path"], own.to_str().unwrap());
    assert_eq!(list["devices"]["cuda"], serde_json::Value::Null);
}

#[test]
fn the_doctor_finds_the_installed_plugin_well() {
    // The folder of the machine, as every test on a plugin takes it.
    gemma_xla()
        .args(["plugin", "doctor", "cpu"])
        .assert()
        .success()
        .stdout(predicate::str::contains("PJRT API 0."))
        .stdout(predicate::str::contains("platform cpu"))
        .stdout(predicate::str::contains("gave the right result"));
}

#[test]
fn the_doctor_finds_a_file_that_is_no_plugin_unwell() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("notes.so");
    fs::write(&file, "no plugin").unwrap();
    let output = plugin(&folder, &["doctor", "--json", file.to_str().unwrap()])
        .assert()
        .code(1)
        .get_output()
        .stdout
        .clone();
    let report: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let checks = report["plugins"][0]["checks"].as_array().unwrap();
    let last = checks.last().unwrap();
    assert_eq!(last["what"], "load");
    assert_eq!(last["verdict"], "bad");
    assert!(last["found"].as_str().unwrap().contains("notes.so"));
}

#[test]
fn the_doctor_finds_an_installed_plugin_of_another_hash_unwell() {
    let folder = TempDir::new().unwrap();
    let library = plugins(&folder).join("cpu-0.0.1/xla_cpu_pjrt.so");
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    // Of the pinned size, and all zero.
    let file = fs::File::create(&library).unwrap();
    file.set_len(259_284_552).unwrap();
    plugin(&folder, &["doctor"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("FAILED"))
        .stdout(predicate::str::contains("`gemma-xla plugin install cpu`"));
    // And one that is cut short is not even tried.
    file.set_len(1000).unwrap();
    fails_naming(
        &mut plugin(&folder, &["doctor", "cpu"]),
        &[
            "xla_cpu_pjrt.so",
            "damaged",
            "`gemma-xla plugin install cpu`",
        ],
    );
}

#[test]
fn the_doctor_survives_a_plugin_that_does_not() {
    let folder = TempDir::new().unwrap();
    let code = folder.path().join("crash.c");
    let library = folder.path().join("crash.so");
    fs::write(
        &code,
        "#include <stdlib.h>\nconst void* GetPjrtApi(void) { abort(); }",
    )
    .unwrap();
    // The compiler that Rust links with.
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &code])
        .status()
        .unwrap();
    assert!(status.success());
    plugin(&folder, &["doctor", library.to_str().unwrap()])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("FAILED"))
        .stdout(predicate::str::contains("signal"));
}

#[test]
fn a_tpu_that_is_not_there_is_said_at_once() {
    if gemma_xla::plugin::tpu_chips() > 0 {
        eprintln!("not tested: this machine has a TPU");
        return;
    }
    // By its name it is a TPU's plugin; it is not loaded to find out that there is no TPU.
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("libtpu.so");
    fs::write(&library, "").unwrap();
    let error = gemma_xla::plugin::find(library.to_str().unwrap()).unwrap_err();
    assert!(
        matches!(error, gemma_xla::plugin::Error::NoTpu),
        "an empty file would be called something else once it is loaded: {error}"
    );
}

#[test]
fn modules_in_the_working_directory_and_in_pythonpath_are_not_run() {
    let folder = TempDir::new().unwrap();
    let ran = folder.path().join("ran");
    for place in ["here", "there"] {
        let pip = folder.path().join(place).join("pip");
        fs::create_dir_all(&pip).unwrap();
        let main = format!("open({:?}, 'w').close()", ran.to_str().unwrap());
        for name in ["__init__.py", "__main__.py"] {
            fs::write(pip.join(name), &main).unwrap();
        }
    }
    // Whether there is a pip and an index to download from does not matter here.
    plugin(&folder, &["install", "cpu"])
        .current_dir(folder.path().join("here"))
        .env("PYTHONPATH", folder.path().join("there"))
        .env("PIP_NO_INDEX", "1")
        .env_remove("GEMMA_XLA_PYTHON")
        .assert()
        .code(1);
    assert!(!ran.exists());
}

#[test]
fn a_plugin_that_others_can_write_to_is_not_loaded() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let library = folder.path().join("plugin.so");
    fs::write(&library, "not a library").unwrap();
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(&library, 0o666);
    let mut command = gemma_xla();
    command
        .args(["generate", "She", "--model"])
        .arg(common::data("gemma-small"))
        .arg("--device")
        .arg(&library);
    fails_naming(&mut command, &["plugin.so", "chmod go-w"]);
    set_mode(&library, 0o644);
    set_mode(folder.path(), 0o777);
    fails_naming(
        &mut command,
        &["chmod go-w", folder.path().to_str().unwrap()],
    );
    // Now the library itself is what is wrong.
    set_mode(folder.path(), 0o755);
    let output = command.output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("chmod"));
}
