//! `parity --against`: two of our own runs, compared as one of ours is with Flax's.

mod common;

use std::fs;
use std::path::Path;

use common::{copy_of, data, fails_naming, gemma_xla, installed, spoil_down_projection};
use serde_json::Value;

/// Runs `parity --json` on a model with these arguments; its exit status and what it prints.
fn parity(model: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let mut command = gemma_xla();
    command.args(["parity", "--json", "--model"]).arg(model);
    let output = command.args(args).output().expect("the binary runs");
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("one JSON object: {output:?}"));
    (output.status.code(), json)
}

fn largest(report: &Value) -> f64 {
    let arrays = report["arrays"].as_array().expect("arrays").iter();
    arrays
        .filter_map(|array| array["max_relative"].as_f64())
        .fold(0.0, f64::max)
}

#[test]
fn a_run_equals_itself_and_another_mesh_and_plugin_differ_by_the_order_of_sums() {
    let model = data("random-sharded");
    let (status, same) = parity(&model, &["--dtype", "f32", "--against", "f32"]);
    assert_eq!((status, largest(&same)), (Some(0), 0.0));
    assert_eq!(same["logits"]["kl_max"], 0.0);
    assert_eq!(same["generated"], serde_json::json!([4, 20]));
    assert_eq!(same["divergences"], serde_json::json!([]));

    let mesh = ["--dtype", "f32", "--against", "model=2"];
    let (status, mesh) = parity(&model, &mesh);
    assert_eq!(status, Some(0));
    assert_eq!(mesh["ours"]["mesh"], "data=1,model=1");
    assert_eq!(mesh["reference"]["mesh"], "data=1,model=2");
    assert!(largest(&mesh) > 0.0 && largest(&mesh) < 1e-5, "{mesh}");

    if installed("cpu-next") {
        let plugin = gemma_xla::plugin::locate("cpu-next").expect("the plugin is there");
        let plugin = plugin.file.path().display().to_string();
        let (status, other) = parity(&model, &["--dtype", "f32", "--against", &plugin]);
        assert_eq!(status, Some(0));
        let named = |side: &str| other[side]["plugin"].as_str().expect("a name").to_owned();
        assert!(named("reference").starts_with(&plugin));
        assert!(!named("ours").starts_with(&plugin));
        assert!(largest(&other) < 1e-5, "{other}");
    }
}

#[test]
fn another_dtype_differs_within_the_tolerance_of_the_coarser_one() {
    let model = data("gemma-small");
    let report = |args: &[&str]| {
        let (status, report) = parity(&model, args);
        assert_eq!(report["tolerance"]["relative"], 3e-2);
        let found = largest(&report);
        assert!((1e-3..3e-2).contains(&found), "{found:e}");
        assert_eq!(status, Some(0));
        report
    };
    let down = report(&["--dtype", "bf16", "--against", "float32", "Valencia is"]);
    assert_eq!(down["dtype"], "bfloat16");
    assert_eq!(down["reference"]["dtype"], "float32");
    let up = report(&["--dtype", "float32", "--against", "bf16", "Valencia is"]);
    assert_eq!(up["dtype"], "float32");
    // The same two runs, seen from either side.
    let rows = |report: &Value| report["positions"].as_array().map(Vec::len);
    assert_eq!(rows(&down), rows(&up));
}

#[test]
fn another_checkpoint_is_compared_and_the_first_layer_that_differs_is_named() {
    let copy = copy_of("gemma-small");
    // The second layer's: the first one is before it.
    spoil_down_projection(&copy, 1);
    let page = copy.path().join("report.html");
    let output = gemma_xla()
        .args(["parity", "--model"])
        .arg(copy.path())
        .args(["--max-new-tokens", "4", "--against"])
        .arg(data("gemma-small"))
        .arg("--report")
        .arg(&page)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("first beyond tolerance: layer 1"), "{text}");
    let page = fs::read_to_string(page).expect("the page is written");
    for side in [copy.path(), &data("gemma-small")] {
        let cell = format!("<td>{}</td>", side.display());
        assert!(page.replace("&#x2f;", "/").contains(&cell), "no {cell}");
    }
    assert!(page.contains("First beyond tolerance</small><b>layer 1</b>"));
}

#[test]
fn prompts_are_the_arguments_and_those_of_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("prompts.jsonl");
    fs::write(
        &file,
        "{\"token_ids\": [2, 7]}\n{\"token_ids\": [2, 9, 11, 4]}\n",
    )
    .expect("the file can be written");
    let file = file.display().to_string();
    let model = data("random-mqa");
    let args = [
        "--against",
        "data=2",
        "--input",
        &file,
        "--max-new-tokens",
        "3",
    ];
    let (status, report) = parity(&model, &args);
    assert_eq!(status, Some(0));
    assert_eq!(report["generated"], serde_json::json!([2, 3]));
    let tokens: Vec<i64> = report["positions"]
        .as_array()
        .expect("positions")
        .iter()
        .filter_map(|position| position["token_id"].as_i64())
        .collect();
    assert_eq!(tokens, [2, 7, 2, 9, 11, 4]);
    // Without a tokenizer the default prompts are tokens of the vocabulary.
    let (status, report) = parity(&model, &["--against", "bf16", "--max-new-tokens", "3"]);
    assert_eq!(status, Some(0));
    assert_eq!(report["generated"], serde_json::json!([4, 3]));
}

#[test]
fn what_cannot_be_compared_is_named_in_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ids = folder.path().join("ids.jsonl");
    fs::write(&ids, "{\"token_ids\": [2, 100000]}\n").expect("the file can be written");
    let ids = ids.display().to_string();
    let other = data("random-mqa").display().to_string();
    let report = folder.path().join("report.html").display().to_string();
    let mqa = "random-mqa";
    for (model, args, parts) in [
        // The form says that it is a mesh, a device or a folder.
        (
            mqa,
            vec!["--against", "no/such/folder"],
            vec!["no/such/folder"],
        ),
        (
            mqa,
            vec!["--against", "/no/such/plugin.so"],
            vec!["/no/such/plugin.so"],
        ),
        (mqa, vec!["--against", "model=7"], vec!["--mesh", "model=7"]),
        (
            mqa,
            vec!["--against", "f32", "--against", "bf16"],
            vec!["--against", "two of one kind"],
        ),
        (
            mqa,
            vec!["--against", "f32", "--tolerance", "nan"],
            vec!["--tolerance NaN"],
        ),
        (mqa, vec!["--against", "f32", "a text"], vec!["tokenizer"]),
        (
            mqa,
            vec!["--against", "f32", "--input", "/no/file"],
            vec!["/no/file"],
        ),
        (
            mqa,
            vec!["--against", "f32", "--input", &ids],
            vec!["100000"],
        ),
        // Another geometry.
        (
            "random-mha",
            vec!["--against", &other],
            vec!["random-mqa", "vocab_size"],
        ),
        (mqa, vec!["one.npz", "two.npz"], vec!["REFERENCE.npz"]),
    ] {
        let mut command = gemma_xla();
        command.args(["parity", "--model"]).arg(data(model));
        command.args(&args).args(["--report", &report]);
        fails_naming(&mut command, &parts);
        assert!(!Path::new(&report).exists(), "{args:?} leaves a page");
    }
    for wrong in [
        vec!["--against", ""],
        vec!["--against", "rows=2"],
        vec!["--input", "prompts.txt", "reference.npz"],
        vec!["--against", "f32", "--max-new-tokens", "0"],
        vec![],
    ] {
        let mut command = gemma_xla();
        command.args(["parity", "--model"]).arg(data(mqa));
        let output = command.args(&wrong).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
}
