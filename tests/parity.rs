//! The same inputs here and in Flax: logits, hidden states and greedy tokens.

mod common;

use std::fs;

use common::{checkpoints, copy_of, data, gemma_xla, spoil_down_projection};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{Engine, GenerateOptions, LoadOptions};
use gemma_xla::parity::{Reference, Report, Tolerance, compare};
use gemma_xla::source::Model;

/// Calls `check` with every reference of this dtype in tests/data, and with the engine that it is
/// for.
fn for_each_reference(dtype: DType, check: impl Fn(&str, &Engine, &Reference)) {
    let mut checked = 0;
    for dir in checkpoints() {
        let path = dir.join(format!("reference-{dtype}.npz"));
        if !path.is_file() {
            continue;
        }
        let name = dir
            .file_name()
            .expect("a folder has a name")
            .to_string_lossy();
        let reference = Reference::read(&path).expect("the reference can be read");
        assert_eq!(reference.dtype(), Some(dtype), "{name}");
        let mut options = LoadOptions::default();
        options.dtype = Some(dtype);
        let model = Model::open(&dir).expect("the checkpoint opens");
        let model = model.load(&options).expect("the checkpoint loads");
        check(&name, model.engine(), &reference);
        checked += 1;
    }
    assert!(checked > 0, "no reference in {dtype}");
}

fn compared(engine: &Engine, reference: &Reference) -> Report {
    let tolerance = Tolerance::for_dtype(engine.spec().compute);
    let report = compare(engine, reference, tolerance).expect("the comparison runs");
    assert!(report.logits.is_some() && report.arrays.len() >= 4);
    report
}

#[test]
fn float32_hidden_states_and_logits_agree_to_1e_4_of_their_scale() {
    for_each_reference(DType::F32, |name, engine, reference| {
        let report = compared(engine, reference);
        for array in &report.arrays {
            let relative = array.agreement.max_relative;
            assert!(
                relative <= 1e-4,
                "{name}: {} differs by {relative:e}",
                array.name
            );
        }
    });
}

/// Flax's own runs in bfloat16, in a batch of another shape or compiled, differ by this much of the
/// logits' scale: the figures that `tools/flax/make_reference.py --measure-noise` left in the
/// references, jaxlib 0.6.2.
const BFLOAT16_NOISE: [(&str, f64); 6] = [
    ("gemma-small", 8.4e-3),
    ("random-bias", 2.6e-2),
    ("random-mha", 2.2e-2),
    ("random-mixed", 2.0e-2),
    ("random-mqa", 2.5e-2),
    ("random-sharded", 1.5e-2),
];

#[test]
fn bfloat16_logits_agree_as_well_as_two_runs_of_flax_do() {
    for_each_reference(DType::BF16, |name, engine, reference| {
        let (_, noise) = BFLOAT16_NOISE
            .iter()
            .find(|(of, _)| *of == name)
            .unwrap_or_else(|| panic!("no figure for {name}"));
        let measured = reference.metadata["batch_noise"]["max_rel_to_scale"].as_f64();
        let measured = measured.expect("the reference says what was measured");
        assert!(
            (measured - noise).abs() < 1e-3,
            "{name}: {measured} is not {noise}"
        );

        let report = compared(engine, reference);
        let logits = report.arrays.last().expect("logits come last");
        let relative = logits.agreement.max_relative;
        assert!(
            relative <= *noise,
            "{name}: logits differ by {relative:e}, Flax by {noise:e}"
        );
        let kl = report.logits.expect("logits").kl_max;
        assert!(kl < 0.015, "{name}: KL {kl}");
    });
}

#[test]
fn sixteen_bit_tokens_part_from_flax_only_at_near_ties() {
    for dtype in [DType::BF16, DType::F16] {
        for_each_reference(dtype, |name, engine, reference| {
            let report = compared(engine, reference);
            for divergence in &report.divergences {
                assert!(divergence.within, "{name}: {divergence:?}");
            }
            assert!(report.within, "{name}: beyond tolerance");
        });
    }
}

#[test]
fn float32_greedy_tokens_equal_flax_in_a_left_padded_batch_and_alone() {
    for_each_reference(DType::F32, |name, engine, reference| {
        let (total, sequences) = reference.sequences.as_ref().expect("sequences");
        let prompts: Vec<_> = (0..reference.batch)
            .map(|row| reference.prompt(row))
            .collect();
        let lengths: std::collections::BTreeSet<_> = prompts.iter().map(Vec::len).collect();
        assert!(lengths.len() > 1, "{name}: the batch has padding");
        let pad = engine.spec().config.padding_id();
        for batch_size in [reference.batch, 1, 3] {
            let mut options = GenerateOptions::default();
            options.max_new_tokens = total - reference.length;
            options.batch_size = batch_size;
            let rows = engine.generate(&prompts, &options);
            let rows = rows.expect("generation runs");
            assert_eq!(rows.len(), reference.batch);
            for (row, generation) in rows.iter().enumerate() {
                assert_eq!(generation.index, row, "results come in order");
                let expected =
                    &sequences[row * total + reference.length..][..options.max_new_tokens];
                let mut found: Vec<i32> =
                    generation.token_ids.iter().map(|&id| id as i32).collect();
                found.resize(options.max_new_tokens, pad as i32);
                assert_eq!(
                    found, expected,
                    "{name}: row {row} in batches of {batch_size}"
                );
            }
        }
    });
}

#[test]
fn an_untouched_checkpoint_is_within_tolerance_and_a_perturbed_one_is_not() {
    let reference = data("gemma-small/reference-float32.npz");
    let run = |model: &std::path::Path| {
        gemma_xla()
            .args(["parity", "--json", "--model"])
            .arg(model)
            .arg(&reference)
            .output()
            .expect("the binary runs")
    };
    let output = run(&data("gemma-small"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["within"], true);
    assert_eq!(report["dtype"], "float32");

    let copy = copy_of("gemma-small");
    spoil_down_projection(&copy, 0);
    let page = copy.path().join("report.html");
    let output = gemma_xla()
        .args(["parity", "--model"])
        .arg(copy.path())
        .arg(&reference)
        .arg("--report")
        .arg(&page)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .next()
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .to_owned()
    };
    assert!(
        line("embedding").ends_with("ok"),
        "before the damage: {text}"
    );
    assert!(line("layer 0").ends_with("BEYOND"), "at the damage: {text}");
    assert!(line("logits").ends_with("BEYOND"), "after it: {text}");
    assert!(text.contains("first beyond tolerance: layer 0"), "{text}");
    let page = fs::read_to_string(page).expect("the page is written");
    let tile = "First beyond tolerance</small><b>layer 0</b>";
    assert!(page.contains(tile), "the page names the layer");
    assert!(page.contains("Beyond tolerance</h1>"));
}

/// Runs `parity` and gives its exit status, its JSON and its page.
fn reported(args: &[&std::ffi::OsStr]) -> (Option<i32>, serde_json::Value, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("report.html");
    let mut command = gemma_xla();
    command.args(["parity", "--json"]).args(args);
    let output = command.arg("--report").arg(&page).output();
    let output = output.expect("the binary runs");
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("one JSON object: {output:?}"));
    let left: Vec<_> = fs::read_dir(folder.path())
        .expect("the folder can be listed")
        .collect();
    assert_eq!(left.len(), 1, "nothing but the page: {left:?}");
    let page = fs::read_to_string(page).expect("the page is written");
    (output.status.code(), json, page)
}

/// How often `part` is in the page.
fn count(page: &str, part: &str) -> usize {
    page.matches(part).count()
}

#[test]
fn the_page_draws_each_array_and_position_and_says_what_both_sides_were() {
    let (status, json, page) = reported(&[
        "--model".as_ref(),
        data("gemma-small").as_ref(),
        data("gemma-small/reference-bfloat16.npz").as_ref(),
    ]);
    assert_eq!(status, Some(0));
    let arrays = json["arrays"].as_array().expect("arrays");
    let positions = json["positions"].as_array().expect("positions").len();
    assert_eq!(arrays.len(), 6);
    assert_eq!(json["logits"]["positions"], positions);
    let per_position = ["kl_at_positions", "top1_at_positions"].map(|name| &json["logits"][name]);
    for list in arrays.iter().map(|array| &array["at_positions"]) {
        assert_eq!(list.as_array().expect("a list").len(), positions);
    }
    for list in per_position {
        assert_eq!(list.as_array().expect("a list").len(), positions);
    }
    for array in arrays {
        let list = array["at_positions"].as_array().expect("a list").iter();
        let largest = list
            .filter_map(serde_json::Value::as_f64)
            .fold(0.0, f64::max);
        assert_eq!(Some(largest), array["max_relative"].as_f64());
        let counts = array["histogram"]["counts"].as_array().expect("counts");
        let counted: u64 = counts.iter().filter_map(serde_json::Value::as_u64).sum();
        let equal = array["histogram"]["equal"].as_u64().expect("a number");
        let width = if array["name"] == "logits" { 2048 } else { 128 };
        assert_eq!(counted + equal, positions as u64 * width);
    }
    assert_eq!(count(&page, "<svg class=\"curve"), arrays.len());
    assert_eq!(count(&page, "<svg class=\"cells"), arrays.len());
    let cells = count(&page, "<rect class=\"h") - count(&page, "aria-hidden=\"true\"><rect");
    assert_eq!(cells, arrays.len() * positions);
    assert_eq!(count(&page, "<rect class=\"same\""), positions);
    for fact in [
        "transformers 4.57.6, flax 0.10.7",
        "Flax msgpack, flax_model.msgpack, 1.9 MB of parameters",
        concat!("gemma-xla ", env!("CARGO_PKG_VERSION")),
        "data=1,model=1",
        "batch noise: max kl",
    ] {
        assert!(page.contains(fact), "no {fact}");
    }
    for absent in ["<script", "http:", "https:", "<link", "{&quot;", "{\""] {
        assert!(!page.contains(absent), "{absent} in the page");
    }
    assert!(page.contains("prefers-color-scheme:dark"));
}

#[test]
fn names_in_a_page_are_escaped() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("<b onclick=x>&");
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(data("random-mqa")).expect("the checkpoint is there") {
        let path = entry.expect("it can be listed").path();
        let to = model.join(path.file_name().expect("a file has a name"));
        fs::copy(&path, to).expect("it can be copied");
    }
    let reference = data("random-mqa/reference-float32.npz");
    let (status, _, page) = reported(&["--model".as_ref(), model.as_ref(), reference.as_ref()]);
    assert_eq!(status, Some(0));
    assert!(page.contains("&lt;b onclick"), "the name is shown");
    assert!(!page.contains("<b onclick"), "the name is a tag");
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_anything_runs() {
    let mut command = gemma_xla();
    command.args(["parity", "--model"]).arg(data("gemma-small"));
    command.arg(data("gemma-small/reference-float32.npz"));
    command.args(["--report", "/no-such-folder/report.html"]);
    common::fails_naming(&mut command, &["--report", "/no-such-folder"]);
}
