//! Gemma 2, 3 and 4: what two other libraries computed on small random checkpoints, here by the
//! library and by the binary, in batches and in sessions, on one device and on meshes.
//!
//! `tools/family/README.md` says how the references were made: a seed is taken only where a window
//! one longer, a missing cap or another of its listed changes moves the logits by 20 times the
//! tolerance that is held here.

mod common;

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{Admitted, Engine, GenerateOptions, LoadOptions, Session, SessionOptions};
use gemma_xla::parity::{Reference, Tolerance, compare};
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};
use serde_json::{Value, json};

/// The checkpoints in tests/data/family.
const CHECKPOINTS: [&str; 9] = [
    "gemma2",
    "gemma2-mha",
    "gemma3",
    "gemma3-flax",
    "gemma3-multimodal",
    "gemma4-dense",
    "gemma4-e",
    "gemma4-e-flax",
    "gemma4-a4b",
];

/// Those whose sessions run on a mesh too.
const FOUR_DEVICES: [&str; 3] = ["gemma3", "gemma4-e", "gemma4-a4b"];

fn load(name: &str, mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(DType::F32);
    options.mesh = mesh;
    let model = Model::open(data("family").join(name)).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

fn reference(name: &str) -> Reference {
    let path = data("family").join(name).join("reference-float32.npz");
    Reference::read(&path).expect("the reference can be read")
}

/// Hidden states and logits within 1e-4 of their scale, and the same greedy tokens.
fn agrees(name: &str, mesh: Mesh) {
    let (model, reference) = (load(name, mesh), reference(name));
    let tolerance = Tolerance {
        relative: 1e-4,
        kl: 1e-5,
    };
    let report = compare(model.engine(), &reference, tolerance).expect("the comparison runs");
    for array in &report.arrays {
        let relative = array.agreement.max_relative;
        assert!(
            array.within,
            "{name} on {mesh}: {} differs by {relative:e}",
            array.name
        );
    }
    assert!(report.generated.is_some(), "{name}: tokens are compared");
    let divergences = &report.divergences;
    assert!(divergences.is_empty(), "{name} on {mesh}: {divergences:?}");
    assert!(report.within, "{name} on {mesh}");
}

#[test]
fn float32_hidden_states_logits_and_tokens_equal_the_references() {
    for name in CHECKPOINTS {
        agrees(name, Mesh::SINGLE);
    }
}

#[test]
fn the_same_on_meshes_of_two_and_four_devices() {
    for name in CHECKPOINTS
        .into_iter()
        .filter(|name| !name.ends_with("-flax"))
    {
        for model in [2, 4] {
            agrees(name, Mesh { data: 1, model });
        }
    }
    for name in FOUR_DEVICES {
        agrees(name, Mesh { data: 2, model: 2 });
    }
}

/// What each prompt of the reference became, without the padding after its end.
fn expected(reference: &Reference, pad: u32) -> Vec<Vec<u32>> {
    let (total, sequences) = reference.sequences.as_ref().expect("sequences");
    let rows = sequences.chunks_exact(*total);
    rows.map(|row| {
        let mut new: Vec<u32> = row[reference.length..]
            .iter()
            .map(|&id| id as u32)
            .collect();
        while new.last() == Some(&pad) {
            new.pop();
        }
        new
    })
    .collect()
}

/// What a session makes of one prompt.
fn in_session(session: &mut Session<'_>, prompt: &[u32], new_tokens: usize) -> Vec<u32> {
    let admitted = session.admit(prompt, new_tokens).expect("it is admitted");
    let admitted = admitted.expect("a free row");
    let tokens = finish(session, &admitted);
    session.free(admitted.row);
    tokens
}

/// What a session generates after a prompt that it has admitted.
fn finish(session: &mut Session<'_>, admitted: &Admitted) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut finished = None;
    while finished.is_none() {
        let stepped = session.step(7, false).expect("it steps");
        for (row, new, end) in stepped.rows {
            if row == admitted.row {
                tokens.extend(new);
                finished = end;
            }
        }
    }
    tokens
}

/// A conversation that goes on, and one that goes back to before what the window has.
#[test]
fn a_row_runs_again_what_its_window_no_longer_has() {
    for name in ["gemma3", "gemma4-e"] {
        let model = load(name, Mesh::SINGLE);
        let mut options = SessionOptions::default();
        options.rows = 1;
        options.max_length = 96;
        options.prefill_chunk = 16;
        options.reuse_prefixes = true;
        let open = || Session::new(model.engine(), &options).expect("a session");
        let mut session = open();
        let prompt: Vec<u32> = (0..20).map(|i| 3 + i * 7 % 40).collect();
        let admitted = session.admit(&prompt, 12).expect("it is admitted");
        let admitted = admitted.expect("a free row");
        let reply = finish(&mut session, &admitted);
        let longer = [&prompt[..], &reply, &[5, 9, 21]].concat();
        let other = [&prompt[..10], &[30, 31, 4, 8]].concat();
        // All but the last token of the reply is in the caches.
        let kept = prompt.len() + reply.len() - 1;
        for (prompt, kept) in [(longer, kept), (other, 0)] {
            session.free(admitted.row);
            let again = session.admit(&prompt, 12).expect("it is admitted");
            let again = again.expect("a free row");
            assert_eq!(again.reused, kept, "{name}");
            let found = finish(&mut session, &again);
            assert_eq!(found, in_session(&mut open(), &prompt, 12), "{name}");
        }
    }
}

#[test]
fn rows_of_a_session_give_the_same_tokens() {
    for (name, mesh) in CHECKPOINTS
        .map(|name| (name, Mesh::SINGLE))
        .into_iter()
        .chain(FOUR_DEVICES.map(|name| (name, Mesh { data: 2, model: 2 })))
    {
        let (model, reference) = (load(name, mesh), reference(name));
        let (total, _) = reference.sequences.as_ref().expect("sequences");
        let pad = model.engine().spec().config.padding_id();
        let mut options = SessionOptions::default();
        options.rows = 2;
        options.max_length = *total;
        // The longest prompt has a part of 16 tokens and one of 3: each is longer, or shorter,
        // than the window of 6.
        options.prefill_chunk = 16;
        let mut session = Session::new(model.engine(), &options).expect("a session");
        // Twice, so that each runs in a row that another has left.
        for _ in 0..2 {
            for (row, wanted) in expected(&reference, pad).iter().enumerate() {
                let prompt = reference.prompt(row);
                let found = in_session(&mut session, &prompt, total - reference.length);
                assert_eq!(&found, wanted, "{name} on {mesh}, row {row}");
            }
        }
    }
}

fn generated(engine: &Engine, prompts: &[Vec<u32>], new_tokens: usize) -> Vec<Vec<u32>> {
    let mut options = GenerateOptions::default();
    options.batch_size = prompts.len();
    options.max_new_tokens = new_tokens;
    let rows = engine.generate(prompts, &options).expect("it generates");
    rows.into_iter().map(|row| row.token_ids).collect()
}

#[test]
fn long_prompts_in_parts_give_the_same_tokens_as_in_one() {
    for name in CHECKPOINTS {
        let model = load(name, Mesh::SINGLE);
        let engine = model.engine();
        let vocabulary = engine.spec().config.vocab_size() as u32;
        // 32 rows run in parts of 64 tokens, one row in one part of 128.
        let prompt =
            |row: u32| (0..(90 + row)).map(move |i| 3 + (i * 7 + row * i * i) % (vocabulary - 3));
        let prompts: Vec<Vec<u32>> = (0..32).map(|row| prompt(row % 4).collect()).collect();
        let together = generated(engine, &prompts, 20);
        for row in 0..4 {
            let alone = generated(engine, &prompts[row..=row], 20);
            assert_eq!(together[row], alone[0], "{name}, row {row}");
            assert_eq!(together[row + 28], alone[0], "{name}, row {}", row + 28);
        }
    }
}

#[test]
fn the_binary_agrees_with_the_kernels_of_the_cpu_and_with_xla_alone() {
    for name in CHECKPOINTS {
        let folder = data("family").join(name);
        // The twins have the same parameters as the checkpoint beside them.
        let kernels: &[&str] = match name.ends_with("-flax") {
            true => &["portable"],
            false => &["portable", "off"],
        };
        for kernel in kernels {
            let output = gemma_xla()
                .env("GEMMA_XLA_CPU_KERNEL", kernel)
                .args(["parity", "--dtype", "f32", "--json", "--model"])
                .arg(&folder)
                .arg(folder.join("reference-float32.npz"))
                .output()
                .expect("the binary runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{name}, {kernel}: {stderr}");
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(report["divergences"], json!([]), "{name}, {kernel}");
        }
    }
}

#[test]
fn a_prompt_through_the_binary_ends_at_any_of_several_eos_ids() {
    let reference = reference("gemma3-multimodal");
    let (total, _) = reference.sequences.as_ref().expect("sequences");
    let lines: Vec<String> = (0..reference.batch)
        .map(|row| json!({"token_ids": reference.prompt(row)}).to_string())
        .collect();
    let output = gemma_xla()
        .args([
            "generate",
            "--dtype",
            "f32",
            "--input",
            "-",
            "--input-format",
            "jsonl",
        ])
        .args(["--format", "jsonl", "--max-new-tokens"])
        .arg((total - reference.length).to_string())
        .arg("--model")
        .arg(data("family/gemma3-multimodal"))
        .write_stdin(lines.join("\n"))
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let parts = "left out parts other than the text model: ";
    assert_eq!(stderr.matches(parts).count(), 1, "one line: {stderr}");
    assert!(stderr.contains("vision_tower (") && stderr.contains("multi_modal_projector ("));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let found: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    let tokens: Vec<Value> = found.iter().map(|line| line["token_ids"].clone()).collect();
    let wanted: Vec<Value> = expected(&reference, 0)
        .into_iter()
        .map(Value::from)
        .collect();
    assert_eq!(tokens, wanted);
    // The last id of the list ends a row midway: see `early_eos` in tools/family.
    let ends: Vec<&str> = found
        .iter()
        .filter_map(|line| line["finish_reason"].as_str())
        .collect();
    assert!(ends.contains(&"eos"), "{ends:?}");
}

#[test]
fn inspect_names_the_parts_that_are_left_out() {
    let output = gemma_xla()
        .args(["inspect", "--json"])
        .arg(data("family/gemma3-multimodal"))
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["fit"]["fits"], json!(true));
    let parts = report["fit"]["other_parts"].as_array().expect("a list");
    assert_eq!(parts.len(), 2, "{parts:?}");
}

#[test]
fn what_would_change_the_result_and_is_not_known_is_one_line_that_names_it() {
    for (key, value, part) in [
        (
            "attn_temperature_tuning",
            json!(4),
            "attn_temperature_tuning",
        ),
        ("sliding_window", json!(0), "sliding_window"),
        ("layer_types", json!(["sliding_attention"]), "13"),
        ("use_bidirectional_attention", json!(true), "causal"),
    ] {
        let copy = copy_of("family/gemma3");
        let file = copy.path().join("config.json");
        edit_json(&file, key, Some(value));
        let mut command = gemma_xla();
        command
            .args(["generate", "--model"])
            .arg(copy.path())
            .arg("x");
        fails_naming(&mut command, &["config.json", key, part]);
    }
}

#[test]
fn experts_that_the_mesh_does_not_divide_are_named() {
    let copy = copy_of("family/gemma4-a4b");
    edit_json(
        &copy.path().join("config.json"),
        "num_experts",
        Some(json!(6)),
    );
    let mut command = gemma_xla();
    command
        .args(["inspect", "--mesh", "model=4"])
        .arg(copy.path());
    fails_naming(&mut command, &["model=4", "num_experts (6)", "1, 2"]);
}

#[test]
fn keys_and_values_that_layers_with_shared_caches_do_not_use_are_left_out() {
    let output = gemma_xla()
        .args(["inspect", "--json"])
        .arg(data("family/gemma4-e-flax"))
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["fit"]["fits"], json!(true));
    let left_out = report["fit"]["left_out"].as_array().expect("a list");
    // Key and value projections and the norm of keys, of three layers.
    assert_eq!(left_out.len(), 9, "{left_out:?}");
    // Five of eight layers have a cache, three of those of six tokens: 2 heads of 8, or of 16 in
    // layers without a window, twice, in float32.
    let (windows, full) = (3 * 6 * 2 * 8, 2 * 128 * 2 * 16);
    assert_eq!(report["caches"]["tokens"], json!(128));
    assert_eq!(report["caches"]["bytes"], json!(2 * 4 * (windows + full)));
    let all = 3 * 128 * 2 * 8;
    let without = &report["caches"]["bytes_without_windows"];
    assert_eq!(*without, json!(2 * 4 * (all + full)));
}
