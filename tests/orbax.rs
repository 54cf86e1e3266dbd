//! Orbax checkpoints through the binary: every form and tree gives the tokens of the same weights
//! in Flax's msgpack form.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use common::{data, fails_naming, gemma_xla};

const PROMPTS: &str = "{\"token_ids\": [2, 5, 40, 7, 101]}\n{\"token_ids\": [2]}\n";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// A model's folder with the configuration of the weights, and with a checkpoint at `place` in it.
fn model(fixture: &str, place: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("model");
    copy(&data("orbax").join(fixture), &folder.join(place));
    fs::copy(data("random-mqa/config.json"), folder.join("config.json")).unwrap();
    (dir, folder)
}

fn tokens(model: &Path, more: &[&str]) -> String {
    let output = gemma_xla()
        .args([
            "generate",
            "--dtype",
            "bf16",
            "--format",
            "jsonl",
            "--max-new-tokens",
            "12",
        ])
        .args(["--input", "-", "--input-format", "jsonl"])
        .args(more)
        .arg("--model")
        .arg(model)
        .write_stdin(PROMPTS)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", model.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_form_and_tree_gives_the_tokens_of_the_msgpack() {
    let expected = tokens(&data("random-mqa"), &[]);
    assert_eq!(expected.lines().count(), 2);
    for (fixture, place) in [
        ("flat", ""),
        ("tall", "checkpoint"),
        ("nested", "default"),
        ("old-flat", "2b-it"),
        ("maxtext-scanned", ""),
        ("maxtext-state", "100/items"),
    ] {
        let (_dir, folder) = model(fixture, place);
        assert_eq!(tokens(&folder, &[]), expected, "{fixture}");
    }
    // Each device takes its slice of each array.
    for fixture in ["flat", "maxtext-scanned"] {
        let (_dir, folder) = model(fixture, "");
        let split = tokens(&folder, &["--devices", "2", "--mesh", "data=1,model=2"]);
        assert_eq!(split, expected, "{fixture} on two devices");
    }
}

#[test]
fn inspect_shows_an_orbax_checkpoint_and_convert_writes_the_same_arrays() {
    for (fixture, naming) in [("flat", "DeepMind"), ("maxtext-scanned", "MaxText")] {
        let (dir, folder) = model(fixture, "");
        let output = gemma_xla()
            .arg("inspect")
            .arg("--json")
            .arg(&folder)
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["naming"], naming);
        assert_eq!(report["format"], "Orbax (OCDBT)");
        assert_eq!(report["fit"]["fits"], true, "{report}");
        let tensors = report["tensors"].as_array().unwrap();
        let stored = |name: &str| tensors.iter().any(|tensor| tensor["stored_name"] == name);
        assert!(stored(match naming {
            "DeepMind" => "transformer/layer_0/attn/q_einsum/w",
            _ => "params/params/decoder/layers/self_attention/query/kernel",
        }));

        let converted = dir.path().join("converted");
        gemma_xla()
            .args(["convert", "--to", "msgpack", "--dtype", "bf16"])
            .args([&folder, &converted])
            .assert()
            .success();
        let found = fs::read(converted.join("flax_model.msgpack")).unwrap();
        let expected = fs::read(data("random-mqa/flax_model.msgpack")).unwrap();
        assert!(found == expected, "{fixture}");
    }
}

#[test]
fn an_unfinished_save_and_a_damaged_manifest_are_named() {
    let (_dir, folder) = model("flat", "5.orbax-checkpoint-tmp-0");
    let mut generate = gemma_xla();
    generate
        .args([
            "generate",
            "--format",
            "jsonl",
            "--input",
            "-",
            "--input-format",
            "jsonl",
        ])
        .arg("--model")
        .arg(&folder)
        .write_stdin(PROMPTS);
    fails_naming(
        &mut generate,
        &["5.orbax-checkpoint-tmp-0", "unfinished Orbax save"],
    );

    let (_dir, folder) = model("flat", "");
    let manifest = folder.join("manifest.ocdbt");
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[30] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    let mut generate = gemma_xla();
    generate
        .args([
            "generate",
            "--format",
            "jsonl",
            "--input",
            "-",
            "--input-format",
            "jsonl",
        ])
        .arg("--model")
        .arg(&folder)
        .write_stdin(PROMPTS);
    fails_naming(&mut generate, &["manifest.ocdbt", "CRC-32C"]);
}

/// Gemma 2B as DeepMind stores it, without any chunk: all parameters are zero.
fn gemma_2b_of_zeros(folder: &Path) {
    let mut arrays = vec![
        (
            "transformer/embedder.input_embedding".to_owned(),
            vec![256_128, 2048],
        ),
        ("transformer/final_norm.scale".to_owned(), vec![2048]),
    ];
    for layer in 0..18 {
        for (name, shape) in [
            ("attn/q_einsum.w", vec![8, 2048, 256]),
            ("attn/kv_einsum.w", vec![2, 1, 2048, 256]),
            ("attn/attn_vec_einsum.w", vec![8, 256, 2048]),
            ("mlp/gating_einsum.w", vec![2, 2048, 16_384]),
            ("mlp/linear.w", vec![16_384, 2048]),
            ("pre_attention_norm.scale", vec![2048]),
            ("pre_ffw_norm.scale", vec![2048]),
        ] {
            arrays.push((format!("transformer/layer_{layer}/{name}"), shape));
        }
    }
    for (name, shape) in arrays {
        let metadata = serde_json::json!({
            "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "bfloat16", "order": "C",
            "compressor": null, "fill_value": null, "filters": null,
        });
        let array = folder.join(name);
        fs::create_dir_all(&array).unwrap();
        fs::write(array.join(".zarray"), metadata.to_string()).unwrap();
    }
    fs::write(folder.join("_METADATA"), "{\"tree_metadata\": {}}").unwrap();
}

#[test]
fn without_a_configuration_the_model_is_recognised_and_its_tokenizer_is_found_above() {
    let dir = TempDir::new().unwrap();
    let item = dir.path().join("7/items");
    gemma_2b_of_zeros(&item);
    fs::copy(
        data("gemma-small/tokenizer.json"),
        dir.path().join("tokenizer.json"),
    )
    .unwrap();
    let inspect = |folder: &Path| {
        let mut command = gemma_xla();
        let output = command.args(["inspect", "--json"]).arg(folder).output();
        let output = output.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (report, output.status.code())
    };
    for folder in [&item, dir.path()] {
        let (report, status) = inspect(folder);
        assert_eq!(report["config"]["assumed"], "gemma-2b", "{report}");
        assert_eq!((&report["fit"]["fits"], status), (&true.into(), Some(0)));
        assert_eq!(report["tokenizer"]["file"], "tokenizer.json");
        assert_eq!(report["total"]["parameters"], 2_506_172_416_u64);
    }
    let text = gemma_xla().arg("inspect").arg(&item).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("shapes are those of gemma-2b"), "{text}");

    // One array more, and it is no model that is known.
    let extra = item.join("transformer/layer_18/pre_ffw_norm.scale");
    fs::create_dir_all(&extra).unwrap();
    let scale = item.join("transformer/layer_17/pre_ffw_norm.scale/.zarray");
    fs::copy(scale, extra.join(".zarray")).unwrap();
    let (report, _) = inspect(&item);
    assert!(report["config"]["assumed"].is_null());
    let mut generate = gemma_xla();
    generate.args(["generate", "She", "--model"]).arg(&item);
    fails_naming(&mut generate, &["config.json"]);
}

#[test]
fn a_run_of_which_a_folder_is_named_checkpoint_is_read() {
    let (_dir, folder) = model("flat", "checkpoint");
    fs::create_dir(folder.join("checkpoint/checkpoint")).unwrap();
    let mut command = gemma_xla();
    command.arg("inspect").arg(&folder).assert().success();
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_file_of_nodes_or_chunks_that_was_cut_short_is_named_with_its_array() {
    for (fixture, least) in [("flat", 3), ("nested", 10), ("maxtext-state", 10)] {
        let (dir, folder) = model(fixture, "");
        let convert = |to: &Path| {
            let mut command = gemma_xla();
            command.arg("convert").arg(&folder).arg(to);
            command.args(["--to", "msgpack"]);
            command
        };
        let whole = dir.path().join("whole");
        convert(&whole).assert().success();
        let weights = |folder: &Path| fs::read(folder.join("flax_model.msgpack")).unwrap();
        let mut refused = 0;
        for (number, file) in files(&folder).into_iter().enumerate() {
            let content = fs::read(&file).unwrap();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) || name.ends_with(".json") {
                continue;
            }
            fs::write(&file, &content[..content.len() / 2]).unwrap();
            let out = dir.path().join(number.to_string());
            let output = convert(&out).output().unwrap();
            if output.status.success() {
                assert!(weights(&out) == weights(&whole), "{}", file.display());
            } else {
                let place = file.strip_prefix(&folder).unwrap().display().to_string();
                fails_naming(&mut convert(&out), &[&place]);
                refused += 1;
            }
            fs::write(&file, content).unwrap();
        }
        assert!(refused >= least, "{fixture}: {refused}");
    }
}
