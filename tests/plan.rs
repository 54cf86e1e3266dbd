//! `plan`, and executables that are compiled beforehand, through the binary. What compiles for TPUs
//! needs libtpu: `gemma-xla plugin install tpu`.

mod common;

use std::path::Path;
use std::process::Output;

use common::{data, fails_naming, gemma_xla};
use serde_json::Value;

/// `plan` with these arguments, which are split at spaces.
fn plan(arguments: &str) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command.arg("plan").args(arguments.split_whitespace());
    command
}

/// The report on a plan that works.
fn report(arguments: &str) -> Value {
    if let Err(error) = gemma_xla::plugin::locate("tpu") {
        panic!("this test compiles for TPUs, and needs libtpu: {error}");
    }
    let output = plan(arguments)
        .args(["--json", "--search-seconds", "0"])
        .output()
        .expect("the binary runs");
    // libtpu's own log lines do not come through.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    json(&output)
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn number(report: &Value, pointer: &str) -> f64 {
    report
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {pointer} in {report}"))
}

/// Plans for Gemma 2B and 7B, checks what holds for every slice, and gives both reports.
fn both_geometries(slice: &str, devices: u64) -> [Value; 2] {
    ["gemma-2b", "gemma-7b"].map(|name| {
        // Short prompts are compiled fast.
        let report = report(&format!(
            "--geometry {name} {slice} --max-length 1024 --prompt-tokens 16"
        ));
        assert_eq!(report["fits"], true, "{report}");
        assert_eq!(report["devices"], devices);
        for pointer in [
            "/estimated_cycles/prefill",
            "/estimated_cycles/decode",
            "/bytes_accessed/prefill",
            "/bytes_accessed/decode",
        ] {
            assert!(number(&report, pointer) > 0.0, "{pointer}");
        }
        let parameters = number(&report, "/parameter_bytes_per_device");
        let whole = number(&report, "/bytes_per_device");
        assert!(whole > parameters && whole < number(&report, "/memory_limit"));
        // A step reads each parameter, and little more than it must. What is fetched ahead in
        // slices is counted a little short.
        let read = number(&report, "/bytes_accessed/decode") / number(&report, "/roofline/bytes");
        assert!((0.9..1.6).contains(&read), "{read} of what must be read");
        let ratio = number(&report, "/roofline_ratio");
        assert!((1.0..3.0).contains(&ratio), "{ratio}");
        // No time is shorter than reading the bytes takes, and none is made up.
        for program in ["prefill", "decode"] {
            let of = |figure: &str| number(&report, &format!("/bound/{program}/{figure}"));
            assert!(of("cycles") >= of("memory_cycles"));
            assert!(of("cycles") >= number(&report, &format!("/estimated_cycles/{program}")));
            assert_eq!(report["unknown"][program], serde_json::json!([]));
        }
        let step = number(&report, "/bound/decode/seconds");
        let rate = number(&report, "/throughput/decode_tokens_per_second");
        let most = number(&report, "/throughput/replicas") * number(&report, "/batch_size") / step;
        assert!(rate <= most && rate > 0.5 * most, "{rate} of {most}");
        let share = number(&report, "/throughput/prefill_share_of_peak");
        assert!(share > 0.0 && share < 1.0, "{share}");
        report
    })
}

/// Collectives of a kind in a decode step.
fn step_collectives(report: &Value, kind: &str) -> u64 {
    report["collectives"]["decode"][kind]["count"]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn four_chips_of_v5e_share_a_model() {
    let [small, large] = both_geometries("--topology v5e:2x2 --mesh model=4 --batch-size 8", 4);
    let parameters = &small["parameters"];
    let model = number(parameters, "/model_bytes");
    let all = number(parameters, "/all_devices_bytes");
    assert!(all > model && all <= 1.05 * model, "{all} of {model}");
    // What is held more than once is named, and makes up the difference.
    let replicated = parameters["replicated"].as_array().expect("a list");
    let excess: f64 = replicated.iter().map(|r| number(r, "/excess_bytes")).sum();
    assert_eq!(excess, all - model);
    assert_eq!(
        replicated[0]["name"],
        "model/layers/*/self_attn/k_proj/kernel"
    );
    assert_eq!(replicated[0]["copies"], 4);

    // The sum of estimates is less than the time in which the bytes are read, so the bound counts.
    let ratio = number(&small, "/roofline_ratio");
    assert!(ratio <= 1.15, "{ratio}");
    // Two sums a layer, and one for the embedding.
    assert_eq!(step_collectives(&small, "all-reduce"), 2 * 18 + 1);
    assert_eq!(step_collectives(&large, "all-reduce"), 2 * 28 + 1);
}

#[test]
fn eight_chips_of_v5e_share_a_model() {
    both_geometries("--topology v5e:2x4 --mesh model=8 --batch-size 8", 8);
}

#[test]
fn a_chip_of_v4_has_two_cores_and_is_one_device() {
    for report in both_geometries("--topology v4:2x2x1", 1) {
        assert_eq!(report["topology_devices"], 4);
        assert_eq!(report["collectives"]["decode"], serde_json::json!({}));
    }
}

#[test]
fn a_chip_of_v5p_has_two_cores_and_is_one_device() {
    for report in both_geometries("--topology v5p:2x2x1", 1) {
        assert_eq!(report["topology_devices"], 4);
    }
}

#[test]
fn four_chips_of_v6e_share_a_model() {
    both_geometries("--topology v6e:2x2 --mesh model=4", 4);
}

#[test]
fn sixteen_chips_on_several_hosts_split_rows_and_parameters() {
    for report in both_geometries(
        "--topology v5e:4x4 --mesh data=4,model=4 --batch-size 16",
        16,
    ) {
        assert!(report["topology_hosts"].as_u64() > Some(1));
        let totals = &report["parameters"];
        let group = number(totals, "/group_bytes");
        assert_eq!(number(totals, "/all_devices_bytes"), 4.0 * group);
    }
}

#[test]
fn a_decode_step_of_2b_on_one_chip_of_v5e_is_close_to_what_its_memory_allows() {
    for batch in [1, 8] {
        let report = report(&format!(
            "--geometry gemma-2b --topology v5e:2x2 --batch-size {batch} --max-length 1024 --prompt-tokens 16"
        ));
        assert_eq!(report["cache_length"], 1024);
        let cycles = number(&report, "/estimated_cycles/decode");
        assert!(cycles <= 12e6, "{cycles} at batch {batch}");
        assert!(number(&report, "/roofline_ratio") >= 1.0);
    }
}

/// What a decode step takes beyond the time in which the chips' memories give what it has to read,
/// where caches are much of that. Nothing of a cache is copied or held twice.
#[test]
fn decode_steps_with_large_caches_are_close_to_what_the_memory_allows() {
    for (arguments, most) in [
        (
            "gemma-7b --topology v5e:2x4 --mesh model=8 --batch-size 8",
            1.05,
        ),
        (
            "gemma-7b --topology v5e:2x4 --mesh model=8 --batch-size 32",
            1.1,
        ),
        (
            "gemma-2b --topology v5e:2x4 --mesh data=8 --batch-size 64",
            1.25,
        ),
        (
            "gemma-2b --topology v5e:2x2 --mesh model=4 --batch-size 32",
            1.25,
        ),
    ] {
        let report = report(&format!(
            "--geometry {arguments} --max-length 2048 --prompt-tokens 16"
        ));
        let ratio = number(&report, "/roofline_ratio");
        assert!((1.0..=most).contains(&ratio), "{arguments}: {ratio}");
        let temporaries = number(&report, "/temporaries_per_cache/decode");
        assert!(temporaries <= 0.05, "{arguments}: {temporaries}");
        assert_eq!(report["cache_copies"], serde_json::json!([]), "{arguments}");
    }
}

#[test]
fn what_does_not_fit_is_an_answer_with_the_compilers_numbers() {
    let report = report("--geometry gemma-7b --topology v5e:1x1 --prompt-tokens 16");
    assert_eq!(report["fits"], false);
    let needed = number(&report, "/bytes_per_device");
    assert!(needed > number(&report, "/memory_limit"));
    assert!(needed > number(&report, "/parameter_bytes_per_device"));
    for unknown in ["estimated_cycles", "bound", "temporaries_per_cache"] {
        assert!(report[unknown]["decode"].is_null(), "{unknown}");
    }
    assert!(report["roofline_ratio"].is_null());
    assert!(report["throughput"]["decode_tokens_per_second"].is_null());
    // A chip cannot hold the parameters, and two can.
    let larger = serde_json::json!(["v5e:2x2", "data=1,model=2"]);
    assert_eq!(
        report["smallest_mesh"],
        serde_json::json!({"found": "none", "larger_slice": larger})
    );
}

#[test]
fn where_a_mesh_is_too_small_the_smallest_that_fits_is_named() {
    let output = plan("--geometry gemma-7b --topology v5e:2x2 --prompt-tokens 16 --json")
        .args(["--search-seconds", "600"])
        .output()
        .expect("the binary runs");
    let report = json(&output);
    assert_eq!(report["fits"], false);
    assert_eq!(
        report["smallest_mesh"],
        serde_json::json!({"found": "fits", "mesh": "data=1,model=2", "devices": 2})
    );
    // No batch and no length fits where the parameters do not.
    for what in ["batch_size", "max_length"] {
        let bounds = &report["largest"][what];
        assert!(bounds["fits"].is_null(), "{bounds}");
        assert_eq!(bounds["exact"], true);
    }
}

#[test]
fn a_search_begins_with_what_the_request_has_shown() {
    let model = data("gemma-small");
    let output = plan("--topology v5e:1x1 --batch-size 6 --max-length 64 --json")
        .args(["--search-seconds", "1", "--price", "1.2", "--model"])
        .arg(&model)
        .output()
        .expect("the binary runs");
    let report = json(&output);
    assert_eq!(report["fits"], true);
    for (what, least) in [("batch_size", 6), ("max_length", 64)] {
        let bounds = &report["largest"][what];
        let fits = bounds["fits"].as_u64().expect("the request itself fits");
        assert!(fits >= least, "{bounds}");
        if let (Some(too_large), "batch_size") = (bounds["too_large"].as_u64(), what) {
            assert!(too_large > fits);
            assert_eq!(bounds["exact"], too_large == fits + 1);
        }
    }
    let rate = number(&report, "/throughput/decode_tokens_per_second");
    let cost = number(&report, "/throughput/cost/per_million_output_tokens");
    let expected = 1.2 / 3600.0 / rate * 1e6;
    assert!((cost / expected - 1.0).abs() < 1e-9, "{cost}, {expected}");
}

#[test]
fn a_second_plan_takes_the_compilers_answers_from_the_cache() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let run = |more: &str| {
        let output = plan("--topology v5e:2x2 --mesh model=2 --max-length 64 --search-seconds 0")
            .arg("--model")
            .arg(data("gemma-small"))
            .args(["--json", "--instructions", "3"])
            .args(more.split_whitespace())
            .env("GEMMA_XLA_CACHE", cache.path())
            .env("GEMMA_XLA_LOG", "gemma_xla=debug")
            .output()
            .expect("the binary runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        (json(&output), log.matches("compiling ").count())
    };
    let (first, compiled) = run("");
    assert_eq!(compiled, 2);
    assert_eq!(
        first["instructions"]["decode"].as_array().map(Vec::len),
        Some(3)
    );
    assert!(first["scopes"]["decode"][0]["cycles"].as_u64() > Some(0));
    let (second, compiled) = run("");
    assert_eq!(compiled, 0);
    assert_eq!(first, second);
    // Executables to save are compiled, since the first plans kept none.
    let saved = tempfile::tempdir().expect("a temporary folder");
    let save = format!("--save {}", saved.path().display());
    assert_eq!(run(&save).1, 2);
    assert_eq!(run(&save).1, 0);
}

#[test]
fn drawing_tokens_is_a_small_part_of_a_step_and_has_its_cycles() {
    let request = "--geometry gemma-2b --topology v5e:1x1 --batch-size 8 --max-length 64 \
                   --prompt-tokens 16";
    let greedy = report(request);
    assert_eq!(greedy.get("draw"), None);
    let drawn = report(&format!("{request} --do-sample --top-k 50 --top-p 0.9"));
    assert!(number(&drawn, "/draw/cycles") > 0.0);
    assert!(number(&drawn, "/draw/share") < 0.1, "{}", drawn["draw"]);
    // Of 256,000 logits for each row only parts are sorted. The compiler has no estimate of that,
    // and none is made up.
    let sorted = drawn["draw"]["unestimated"].as_array().expect("a list");
    let [sorted] = sorted.as_slice() else {
        panic!("{}", drawn["draw"]);
    };
    assert!(
        sorted
            .as_str()
            .is_some_and(|text| text.contains("[8,4000]"))
    );
    assert_eq!(drawn["estimated_cycles"]["decode"], Value::Null);
    let bytes = |report: &Value| number(report, "/bytes_accessed/decode");
    let more = bytes(&drawn) / bytes(&greedy);
    assert!((0.99..1.01).contains(&more), "{more}");
}

#[test]
fn bad_requests_are_answered_with_one_line() {
    let model = data("gemma-small");
    let on_model = |rest: &str| {
        let mut command = plan(rest);
        command.arg("--model").arg(&model);
        command
    };
    for (arguments, parts) in [
        (
            "--geometry gemma-2b --topology v5e:3x3",
            &["--topology", "v5e:3x3", "v4:2x2x1", "v5e:16x16", "v6e:2x2"][..],
        ),
        (
            "--geometry gemma-3b --topology v5e:2x2",
            &["--geometry", "gemma-3b", "gemma-2b, gemma-7b"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --mesh model=8",
            &["--mesh", "data=1,model=8", "v5e:2x2", "4"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --mesh data=2,model=3",
            &["--mesh", "data=2,model=3", "6 devices", "v5e:2x2 has 4"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --mesh model=3",
            &["--mesh", "num_attention_heads (8)", "1, 2, 4, 8"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --max-length 9000",
            &["--max-length", "9000", "8192"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --max-length 64 --prompt-tokens 64",
            &["--prompt-tokens", "64"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --batch-size 0",
            &["--batch-size", "0"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --do-sample --top-p 0",
            &["--top-p", "0"],
        ),
        (
            "--geometry gemma-2b --topology v5e:2x2 --price -1",
            &["--price", "-1"],
        ),
    ] {
        fails_naming(&mut plan(arguments), parts);
    }
    fails_naming(
        &mut on_model("--topology v5e:2x2 --mesh model=3"),
        &["--mesh", "num_attention_heads"],
    );
    fails_naming(
        &mut plan("--model no/such/folder --topology v5e:2x2"),
        &["no/such/folder"],
    );
}

#[test]
fn a_missing_libtpu_is_named_with_what_installs_it() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let mut command = plan("--geometry gemma-2b --topology v5e:2x2");
    command
        .env("GEMMA_XLA_PLUGINS", empty.path())
        .env("HOME", empty.path())
        .env_remove("TPU_LIBRARY_PATH")
        .env_remove("GEMMA_XLA_PLUGIN_TPU");
    fails_naming(&mut command, &["plugin install tpu"]);
}

#[test]
fn executables_for_a_slice_are_saved_with_a_manifest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = data("gemma-small");
    let saved = report(&format!(
        "--model {} --topology v5e:2x2 --mesh model=2 --max-length 64 --save {}",
        model.display(),
        folder.path().display()
    ));
    let manifest = folder.path().join("manifest.json");
    assert_eq!(saved["saved"], manifest.to_str().expect("plain"));
    let text = std::fs::read(&manifest).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(manifest["target"]["topology"], "v5e:2x2");
    assert_eq!(manifest["target"]["mesh"], "data=1,model=2");
    let executables = manifest["executables"].as_array().expect("a list");
    let programs: Vec<_> = executables.iter().map(|e| &e["program"]).collect();
    assert_eq!(programs, ["prefill", "decode"]);
    for executable in executables {
        let file = folder
            .path()
            .join(executable["file"].as_str().expect("text"));
        let size = file.metadata().expect("the file is there").len();
        assert_eq!(Some(size), executable["bytes"].as_u64());
    }

    // They are for TPUs, and this is a CPU.
    fails_naming(
        &mut generate_with(&model, folder.path()),
        &["--executables", "manifest.json", "platform tpu", "cpu"],
    );
}

/// `generate` on a CPU with executables from `folder`.
fn generate_with(model: &Path, folder: &Path) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command
        .args(["generate", "--input", "-", "--input-format", "jsonl"])
        .args(["--max-new-tokens", "8", "--model"])
        .arg(model)
        .arg("--executables")
        .arg(folder)
        .env("GEMMA_XLA_CACHE", "off")
        .write_stdin("{\"token_ids\": [2, 5, 7]}\n");
    command
}

#[test]
fn a_line_break_in_a_path_stays_in_its_line() {
    assert!(common::installed("tpu"));
    let place = tempfile::TempDir::new().expect("a folder");
    let model = place.path().join("a\nfits: yes");
    std::fs::create_dir(&model).expect("made");
    std::fs::copy(data("random-mqa/config.json"), model.join("config.json")).expect("copied");
    let output = plan("--topology v5e:2x2 --max-length 48 --search-seconds 0 --model")
        .arg(&model)
        .output()
        .expect("the binary runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(
        !report.lines().any(|line| line.starts_with("fits: yes")),
        "{report}"
    );
    assert!(
        report.lines().any(|line| line.starts_with("fits: ")),
        "{report}"
    );
    assert!(report.contains("\\nfits: yes"), "{report}");
}
