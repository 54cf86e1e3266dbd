//! Checkpoints as they are found: untidy ones are read with a line that says what was left out,
//! and what is not a checkpoint is named. All through the binary.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::checkpoint::Checkpoint;
use gemma_xla::dtype::DType;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const MSGPACK: &str = "flax_model.msgpack";
const SAFETENSORS: &str = "model.safetensors";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n";

fn run(arguments: &[&str], model: &Path) -> Output {
    let mut command = gemma_xla();
    command.args(arguments).arg(model);
    command.output().expect("the binary runs")
}

fn inspect(model: &Path) -> (Value, Output) {
    let output = run(&["inspect", "--json"], model);
    let report = serde_json::from_slice(&output.stdout).expect("one JSON object");
    (report, output)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `generate` on a model, with ids for a prompt.
fn generate(model: &Path) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command.args(["generate", "--input-format", "jsonl", "--input", "-"]);
    command.args(["--max-new-tokens", "4", "--format", "jsonl", "--model"]);
    command
        .arg(model)
        .write_stdin("{\"token_ids\": [2, 638]}\n");
    command
}

fn generated(model: &Path) -> (Value, String) {
    let output = generate(model).output().expect("the binary runs");
    assert!(output.status.success(), "{}", stderr(&output));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    (line["token_ids"].clone(), stderr(&output))
}

/// A tensor of a safetensors file: name, dtype, shape and bytes.
struct Stored {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn stored(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Stored {
    Stored {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

/// The tensors of a checkpoint in tests/data, by Flax's names.
fn tensors_of(name: &str) -> Vec<Stored> {
    let checkpoint = Checkpoint::open(&data(name)).expect("it opens");
    let stored = checkpoint.tensors().map(|tensor| {
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_at(0, &mut bytes).expect("it is read");
        let dtype = match tensor.dtype() {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        };
        stored(tensor.name(), dtype, tensor.shape(), bytes)
    });
    stored.collect()
}

fn write_safetensors(file: &Path, tensors: &[Stored]) {
    let (mut header, mut bytes) = (Map::new(), Vec::new());
    for tensor in tensors {
        let begin = bytes.len();
        bytes.extend(&tensor.bytes);
        let offsets = [begin, bytes.len()];
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}),
        );
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(file, [&length[..], header.as_bytes(), &bytes].concat()).expect("written");
}

/// A copy of a checkpoint as safetensors, after `change`.
fn as_safetensors(name: &str, change: impl FnOnce(&mut Vec<Stored>)) -> TempDir {
    let model = copy_of(name);
    fs::remove_file(model.path().join(MSGPACK)).expect("removed");
    let mut tensors = tensors_of(name);
    change(&mut tensors);
    write_safetensors(&model.path().join(SAFETENSORS), &tensors);
    model
}

/// float64 of the values of a tensor in bfloat16.
fn widened(bytes: &[u8]) -> Vec<u8> {
    let (elements, _) = bytes.as_chunks::<2>();
    let wide = |x: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
    elements
        .iter()
        .flat_map(|x| f64::from(wide(x)).to_le_bytes())
        .collect()
}

/// [d, v] of [v, d], elements of two bytes.
fn transposed(tensor: &Stored) -> Vec<u8> {
    let (elements, _) = tensor.bytes.as_chunks::<2>();
    let [rows, columns] = tensor.shape[..] else {
        panic!("not a matrix")
    };
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| elements[row * columns + column]))
        .flatten()
        .collect()
}

fn embedding(tensors: &[Stored]) -> &Stored {
    tensors
        .iter()
        .find(|tensor| tensor.name == "model/embed_tokens/embedding")
        .expect("it has an embedding")
}

#[test]
fn float64_norms_give_the_tokens_of_the_bfloat16_ones() {
    let model = as_safetensors("gemma-small", |tensors| {
        for tensor in tensors.iter_mut().filter(|t| t.name.ends_with("weight")) {
            assert_eq!(tensor.dtype, "BF16");
            tensor.bytes = widened(&tensor.bytes);
            tensor.dtype = "F64";
        }
    });
    let (tokens, said) = generated(model.path());
    assert_eq!(tokens, generated(&data("gemma-small")).0);
    let lines: Vec<&str> = said.lines().filter(|l| l.contains("float64")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("9 tensors"), "{said}");
    assert!(lines[0].contains(SAFETENSORS), "{said}");
    let (report, _) = inspect(model.path());
    assert_eq!(report["dtypes"]["float64"]["tensors"], 9);
}

#[test]
fn what_is_not_a_parameter_is_left_out_with_one_line_that_counts_it() {
    let model = as_safetensors("gemma-small", |tensors| {
        tensors.push(stored(
            "model.layers.0.rotary_emb.inv_freq",
            "F32",
            &[4],
            vec![0; 16],
        ));
        tensors.push(stored("model.position_ids", "I64", &[1, 2], vec![0; 16]));
        tensors.push(stored("model.marker", "F16", &[0], Vec::new()));
        tensors.push(stored("model.scale", "F32", &[], vec![0; 4]));
    });
    let (tokens, said) = generated(model.path());
    assert_eq!(tokens, generated(&data("gemma-small")).0);
    let lines: Vec<&str> = said.lines().filter(|l| l.contains("left out")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("4 tensors"), "{said}");
    assert!(lines[0].contains("inv_freq"), "{said}");
    let (report, output) = inspect(model.path());
    assert_eq!(report["fit"]["fits"], true);
    assert_eq!(report["fit"]["left_out"].as_array().map(Vec::len), Some(4));
    assert!(output.status.success());

    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let mut convert = gemma_xla();
    convert.arg("convert").arg(model.path()).arg(&out);
    let output = convert
        .args(["--to", "safetensors"])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("left out 4 tensors"),
        "{}",
        stderr(&output)
    );
    assert_eq!(generated(&out).0, tokens);
}

#[test]
fn what_is_left_over_and_looks_like_weights_is_an_error() {
    let model = as_safetensors("gemma-small", |tensors| {
        for name in ["model/extra/a", "model/extra/b"] {
            tensors.push(stored(name, "F32", &[4], vec![0; 16]));
        }
    });
    fails_naming(
        &mut generate(model.path()),
        &[
            SAFETENSORS,
            "2 tensors are left over",
            "model/extra/a",
            "model/extra/b",
        ],
    );
    assert_eq!(run(&["inspect"], model.path()).status.code(), Some(1));
}

#[test]
fn a_tensor_of_a_shard_that_the_index_lacks_is_left_out() {
    let model = as_safetensors("gemma-small", |tensors| {
        tensors.push(stored("model/extra", "F32", &[4], vec![0; 16]));
    });
    let shard = "model-00001-of-00001.safetensors";
    let file = model.path().join(SAFETENSORS);
    fs::rename(file, model.path().join(shard)).expect("renamed");
    let names: Map<String, Value> = tensors_of("gemma-small")
        .into_iter()
        .map(|tensor| (tensor.name, shard.into()))
        .collect();
    let index = json!({ "weight_map": names }).to_string();
    fs::write(model.path().join("model.safetensors.index.json"), index).expect("written");
    let (tokens, said) = generated(model.path());
    assert_eq!(tokens, generated(&data("gemma-small")).0);
    assert!(
        said.contains("left out 1 tensor, not parameters: model/extra"),
        "{said}"
    );
}

#[test]
fn a_head_that_equals_the_embedding_is_left_out() {
    let model = as_safetensors("gemma-small", |tensors| {
        let embedding = embedding(tensors);
        let shape = [embedding.shape[1], embedding.shape[0]];
        let head = stored(
            "lm_head/kernel",
            embedding.dtype,
            &shape,
            transposed(embedding),
        );
        tensors.push(head);
    });
    let (tokens, said) = generated(model.path());
    assert_eq!(tokens, generated(&data("gemma-small")).0);
    assert!(
        said.contains("lm_head/kernel (equal to the embedding)"),
        "{said}"
    );
    let (report, output) = inspect(model.path());
    assert_eq!(report["fit"]["fits"], true);
    assert!(output.status.success());

    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let mut convert = gemma_xla();
    convert
        .arg("convert")
        .arg(model.path())
        .arg(&out)
        .args(["--to", "npz"]);
    let output = convert.output().expect("the binary runs");
    assert!(
        stderr(&output).contains("equal to the embedding"),
        "{}",
        stderr(&output)
    );
    let written = Checkpoint::open(&out).expect("it opens");
    assert!(written.get("lm_head/kernel").is_none());
}

#[test]
fn a_head_that_differs_from_the_embedding_is_an_error_everywhere() {
    let model = as_safetensors("gemma-small", |tensors| {
        let embedding = embedding(tensors);
        let shape = [embedding.shape[1], embedding.shape[0]];
        let mut bytes = transposed(embedding);
        *bytes.last_mut().expect("not empty") ^= 1;
        let head = stored("lm_head/kernel", embedding.dtype, &shape, bytes);
        tensors.push(head);
    });
    let parts = [
        "lm_head/kernel",
        "differs from the embedding",
        "tie_word_embeddings",
    ];
    fails_naming(&mut generate(model.path()), &parts);
    let place = TempDir::new().expect("a folder");
    let mut convert = gemma_xla();
    convert
        .arg("convert")
        .arg(model.path())
        .arg(place.path().join("out"));
    fails_naming(convert.args(["--to", "npz"]), &parts);
    let (report, output) = inspect(model.path());
    assert_eq!(report["fit"]["untied_head"], "lm_head/kernel");
    assert_eq!(output.status.code(), Some(1));
    let text = run(&["inspect"], model.path());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("differs from the embedding"), "{text}");
}

#[test]
fn inspect_prints_its_report_and_exits_with_1_where_the_checkpoint_does_not_fit() {
    let model = copy_of("gemma-small");
    edit_json(
        &model.path().join("config.json"),
        "num_hidden_layers",
        Some(json!(40)),
    );
    let (report, output) = inspect(model.path());
    assert_eq!(report["fit"]["fits"], false);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
    let text = run(&["inspect"], model.path());
    assert_eq!(text.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&text.stdout).contains("missing     model/layers/4/"));
}

#[test]
fn missing_tensors_are_counted_and_the_first_are_named() {
    let model = copy_of("gemma-small");
    edit_json(
        &model.path().join("config.json"),
        "num_hidden_layers",
        Some(json!(6)),
    );
    // Two layers of nine tensors each.
    fails_naming(
        &mut generate(model.path()),
        &["18 tensors are missing", "model/layers/4/", "and 15 more"],
    );
}

#[test]
fn all_tensors_are_counted_where_the_embedding_is_missing_too() {
    let model = as_safetensors("gemma-small", |tensors| {
        for tensor in tensors.iter_mut() {
            tensor.name.insert_str(0, "other/");
        }
        tensors.truncate(1);
    });
    fails_naming(
        &mut generate(model.path()),
        &[SAFETENSORS, "38 tensors are missing", "and 35 more"],
    );
}

#[test]
fn a_git_lfs_pointer_is_named_wherever_it_is() {
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        MSGPACK,
    ] {
        let model = copy_of("gemma-small");
        fs::write(model.path().join(name), POINTER).expect("written");
        fails_naming(
            &mut generate(model.path()),
            &[name, "Git LFS pointer", "git lfs pull"],
        );
    }
    for name in [
        "model.npz",
        SAFETENSORS,
        "model.safetensors.index.json",
        "flax_model.msgpack.index.json",
    ] {
        let model = copy_of("gemma-small");
        fs::remove_file(model.path().join(MSGPACK)).expect("removed");
        fs::write(model.path().join(name), POINTER).expect("written");
        fails_naming(
            &mut generate(model.path()),
            &[name, "Git LFS pointer", "git lfs pull"],
        );
    }
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join("tokenizer.json")).expect("removed");
    fs::write(model.path().join("tokenizer.model"), POINTER).expect("written");
    fails_naming(
        &mut generate(model.path()),
        &["tokenizer.model", "git lfs pull"],
    );
}

#[test]
fn an_html_page_in_place_of_a_file_is_named() {
    for name in ["config.json", "tokenizer.json", MSGPACK] {
        let model = copy_of("gemma-small");
        fs::write(model.path().join(name), "\n<!DOCTYPE html>\n<html>").expect("written");
        fails_naming(&mut generate(model.path()), &[name, "HTML page"]);
    }
}

#[test]
fn a_link_to_nothing_is_named_with_its_target() {
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        MSGPACK,
    ] {
        let model = copy_of("gemma-small");
        let file = model.path().join(name);
        fs::remove_file(&file).expect("removed");
        symlink("../blobs/0123abcd", &file).expect("linked");
        let parts = [name, "symbolic link to ../blobs/0123abcd"];
        fails_naming(&mut generate(model.path()), &parts);
        let place = TempDir::new().expect("a folder");
        let mut convert = gemma_xla();
        convert
            .arg("convert")
            .arg(model.path())
            .arg(place.path().join("out"));
        fails_naming(convert.args(["--to", "npz"]), &parts);
    }
    let model = copy_of("random-sharded");
    let index = model.path().join("flax_model.msgpack.index.json");
    let shards: Vec<_> = fs::read_dir(model.path())
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.extension().is_some_and(|end| end == "msgpack"))
        .collect();
    for file in [index, shards[0].clone()] {
        let content = fs::read(&file).expect("read");
        fs::remove_file(&file).expect("removed");
        symlink("gone", &file).expect("linked");
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        fails_naming(
            &mut generate(model.path()),
            &[&name, "symbolic link to gone"],
        );
        fs::remove_file(&file).expect("removed");
        fs::write(&file, content).expect("written");
    }
}

#[test]
fn an_orbax_folder_with_empty_files_is_an_error_that_names_one() {
    let model = copy_of("gemma-small");
    fs::remove_file(model.path().join(MSGPACK)).expect("removed");
    for name in ["_METADATA", "manifest.ocdbt"] {
        fs::write(model.path().join(name), "").expect("written");
    }
    let mut command = gemma_xla();
    command.arg("inspect").arg(model.path());
    fails_naming(&mut command, &["_METADATA", "malformed"]);
}

#[test]
fn a_folder_without_weights_says_what_it_contains() {
    for (names, kind) in [
        (&["pytorch_model.bin"][..], "PyTorch"),
        (&["gemma-2b.Q4_K_M.gguf"], "GGUF"),
        (
            &["adapter_config.json", "adapter_model.safetensors"],
            "LoRA adapter",
        ),
        (&["quantize_config.json", "gptq.safetensors"], "quantised"),
        (&["notes.txt"], "notes.txt"),
    ] {
        let model = copy_of("gemma-small");
        fs::remove_file(model.path().join(MSGPACK)).expect("removed");
        for npz in ["reference-bfloat16.npz", "reference-float32.npz"] {
            fs::remove_file(model.path().join(npz)).expect("removed");
        }
        for name in names {
            fs::write(model.path().join(name), "").expect("written");
        }
        fails_naming(
            &mut generate(model.path()),
            &["no weights found", "config.json", kind],
        );
    }
}

#[test]
fn a_training_state_is_named_as_one() {
    let model = as_safetensors("gemma-small", |tensors| {
        tensors.push(stored("opt_state/0/mu", "F32", &[4], vec![0; 16]));
    });
    fails_naming(
        &mut generate(model.path()),
        &["opt_state", "training state"],
    );
    let model = copy_of("gemma-small");
    // {"step": 7}, as the head of what flax.serialization writes for a TrainState.
    fs::write(model.path().join(MSGPACK), b"\x81\xa4step\x07").expect("written");
    fails_naming(&mut generate(model.path()), &["step", "training state"]);
}

#[test]
fn quantised_weights_are_named_as_such() {
    for (dtype, name) in [
        ("I8", "int8"),
        ("U8", "uint8"),
        ("F8_E4M3", "float8_e4m3fn"),
    ] {
        let model = as_safetensors("gemma-small", |tensors| {
            let tensor = tensors
                .iter_mut()
                .find(|tensor| tensor.name.ends_with("mlp/up_proj/kernel"))
                .expect("it has an MLP");
            tensor.dtype = dtype;
            tensor.bytes.truncate(tensor.bytes.len() / 2);
        });
        fails_naming(
            &mut generate(model.path()),
            &["mlp/up_proj/kernel", name, "quantised"],
        );
    }
}

#[test]
fn a_cast_writes_its_dtype_into_the_configuration_and_changes_nothing_else() {
    for (key, dtype) in [("torch_dtype", "f32"), ("dtype", "f16"), ("none", "f32")] {
        let model = copy_of("gemma-small");
        let config = model.path().join("config.json");
        let mut before = fs::read_to_string(&config).expect("read");
        if key != "none" {
            before = before.replacen('{', &format!("{{\n  \"{key}\":  \"bfloat16\","), 1);
            fs::write(&config, &before).expect("written");
        }
        let place = TempDir::new().expect("a folder");
        let out = place.path().join("out");
        let mut convert = gemma_xla();
        convert.arg("convert").arg(model.path()).arg(&out);
        convert.args(["--to", "msgpack", "--dtype", dtype]);
        let output = convert.output().expect("the binary runs");
        assert!(output.status.success(), "{}", stderr(&output));
        let after = fs::read_to_string(out.join("config.json")).expect("read");
        let name = if dtype == "f32" { "float32" } else { "float16" };
        let expected = match key {
            "none" => before.replacen('{', &format!("{{\n  \"torch_dtype\": \"{name}\","), 1),
            _ => before.replace("\"bfloat16\"", &format!("\"{name}\"")),
        };
        assert_eq!(after, expected);
    }
}

/// bfloat16 multiplied by 2^20: neither zeros nor subnormal numbers are changed.
fn scaled(bytes: &mut [u8]) {
    let (elements, _) = bytes.as_chunks_mut::<2>();
    for element in elements {
        let word = u16::from_le_bytes(*element);
        if word & 0x7f80 != 0 {
            *element = (word + (20 << 7)).to_le_bytes();
        }
    }
}

#[test]
fn a_cast_writes_the_bytes_that_flax_writes_and_counts_what_overflows() {
    use sha2::{Digest, Sha256};

    let text = fs::read_to_string(data("gemma-small/casts.json")).expect("read");
    let fixture: Value = serde_json::from_str(&text).expect("JSON");
    let model = as_safetensors("gemma-small", |tensors| {
        tensors
            .iter_mut()
            .for_each(|tensor| scaled(&mut tensor.bytes));
    });
    let cases = fixture["casts"].as_array().expect("cases");
    assert_eq!(cases.len(), 6);
    for case in cases {
        let source = match case["scale"].as_f64() {
            Some(1.0) => &data("gemma-small"),
            _ => model.path(),
        };
        let place = TempDir::new().expect("a folder");
        let out = place.path().join("out");
        let mut convert = gemma_xla();
        convert.arg("convert").arg(source).arg(&out);
        convert.args(["--to", "msgpack", "--dtype"]);
        convert.arg(case["dtype"].as_str().expect("a dtype"));
        let output = convert.output().expect("the binary runs");
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        let digest = Sha256::digest(fs::read(out.join(MSGPACK)).expect("written"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(case["sha256"], digest, "{case}");
        let infinite = case["infinite"].as_u64().expect("a count");
        let counted = said.contains(&format!("{infinite} values are too large for float16"));
        assert_eq!(counted, infinite > 0, "{case}: {said}");
    }
}

#[test]
fn values_that_overflow_a_cast_are_counted() {
    let model = as_safetensors("gemma-small", |tensors| {
        let large = 1.0e30_f32.to_bits().to_be_bytes();
        let infinite = f32::INFINITY.to_bits().to_be_bytes();
        for (tensor, count) in tensors.iter_mut().zip([3, 1]) {
            for element in 0..count {
                tensor.bytes[element * 2..][..2].copy_from_slice(&[large[1], large[0]]);
            }
            // What is stored as infinite does not overflow.
            tensor.bytes[20..22].copy_from_slice(&[infinite[1], infinite[0]]);
        }
    });
    let place = TempDir::new().expect("a folder");
    let mut convert = gemma_xla();
    convert
        .arg("convert")
        .arg(model.path())
        .arg(place.path().join("out"));
    convert.args(["--to", "npz", "--dtype", "f16"]);
    let output = convert.output().expect("the binary runs");
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("4 values are too large for float16"),
        "{said}"
    );
    assert!(said.contains("in 2 tensors"), "{said}");
    assert!(said.contains("has most of them, 3"), "{said}");
    // Nothing is said where nothing overflows.
    let mut convert = gemma_xla();
    convert
        .arg("convert")
        .arg(data("gemma-small"))
        .arg(place.path().join("fine"));
    convert.args(["--to", "npz", "--dtype", "f16"]);
    let output = convert.output().expect("the binary runs");
    assert!(
        !stderr(&output).contains("too large"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn names_that_programs_wrap_and_names_without_a_head_give_the_same_tokens() {
    let expected = generated(&data("gemma-small")).0;
    for rename in [
        |name: &str| format!("_orig_mod.{name}"),
        |name: &str| format!("module.{name}"),
        |name: &str| format!("base_model.model.{name}"),
        |name: &str| format!("params/params/{name}"),
        |name: &str| name.replacen("model/", "", 1),
    ] {
        let model = as_safetensors("gemma-small", |tensors| {
            for tensor in tensors {
                tensor.name = rename(&tensor.name);
            }
        });
        assert_eq!(generated(model.path()).0, expected, "{}", rename("model/x"));
    }
}

/// A msgpack file of these tensors, by joined names.
fn msgpack(tensors: &[Stored]) -> Vec<u8> {
    use rmp::encode::{
        write_array_len, write_bin, write_ext_meta, write_map_len, write_str, write_uint,
    };
    let mut file = Vec::new();
    write_map_len(&mut file, tensors.len() as u32).expect("written");
    for tensor in tensors {
        let mut leaf = Vec::new();
        write_array_len(&mut leaf, 3).expect("written");
        write_array_len(&mut leaf, tensor.shape.len() as u32).expect("written");
        for &size in &tensor.shape {
            write_uint(&mut leaf, size as u64).expect("written");
        }
        let dtype = match tensor.dtype {
            "F64" => "float64",
            "BF16" => "bfloat16",
            other => panic!("{other}"),
        };
        write_str(&mut leaf, dtype).expect("written");
        write_bin(&mut leaf, &tensor.bytes).expect("written");
        write_str(&mut file, &tensor.name).expect("written");
        write_ext_meta(&mut file, leaf.len() as u32, 1).expect("written");
        file.extend(leaf);
    }
    file
}

#[test]
fn float64_norms_in_msgpack_give_the_tokens_of_the_bfloat16_ones() {
    let mut tensors = tensors_of("gemma-small");
    for tensor in tensors.iter_mut().filter(|t| t.name.ends_with("weight")) {
        tensor.bytes = widened(&tensor.bytes);
        tensor.dtype = "F64";
    }
    let model = copy_of("gemma-small");
    fs::write(model.path().join(MSGPACK), msgpack(&tensors)).expect("written");
    let (tokens, said) = generated(model.path());
    assert_eq!(tokens, generated(&data("gemma-small")).0);
    assert!(said.contains("9 tensors are float64"), "{said}");
}

#[test]
fn a_configuration_as_python_writes_it_is_read_and_converted() {
    let model = copy_of("gemma-small");
    let file = model.path().join("config.json");
    let text = fs::read_to_string(&file).expect("read");
    let text = text.replacen(
        '{',
        "{\n  \"classifier_dropout\": NaN, \"limit\": -Infinity,",
        1,
    );
    let text = text.replace("\"pad_token_id\": 0", "\"pad_token_id\": -1");
    fs::write(&file, &text).expect("written");
    let expected = generated(&data("gemma-small")).0;
    assert_eq!(generated(model.path()).0, expected);
    let (report, output) = inspect(model.path());
    assert!(output.status.success());
    assert_eq!(report["config"]["values"]["pad_token_id"], -1);

    let place = TempDir::new().expect("a folder");
    let out = place.path().join("out");
    let mut convert = gemma_xla();
    convert.arg("convert").arg(model.path()).arg(&out);
    convert
        .args(["--to", "npz", "--dtype", "f32"])
        .assert()
        .success();
    let written = fs::read_to_string(out.join("config.json")).expect("read");
    assert!(
        written.contains("\"torch_dtype\": \"float32\""),
        "{written}"
    );
    assert!(written.contains("NaN, \"limit\": -Infinity,"), "{written}");
}

#[test]
fn a_reference_that_is_something_else_is_named() {
    let place = TempDir::new().expect("a folder");
    let file = place.path().join("what-flax-computed.npz");
    for (content, said) in [
        (POINTER, "Git LFS pointer"),
        ("<!DOCTYPE html>", "HTML page"),
        ("junk", "not an npz file"),
    ] {
        fs::write(&file, content).expect("written");
        let mut parity = gemma_xla();
        parity.args(["parity", "--model"]).arg(data("gemma-small"));
        fails_naming(parity.arg(&file), &["what-flax-computed.npz", said]);
    }
    fs::remove_file(&file).expect("removed");
    let mut parity = gemma_xla();
    parity.args(["parity", "--model"]).arg(data("gemma-small"));
    fails_naming(
        parity.arg(&file),
        &["what-flax-computed.npz", "no such file"],
    );
}

#[test]
fn xla_flags_are_named_before_xla_ends_the_process_at_one() {
    let output = gemma_xla()
        .args(["generate", "She", "--max-new-tokens", "1", "--model"])
        .arg(data("gemma-small"))
        .env("XLA_FLAGS", "--xla_no_such_flag=1")
        .output()
        .expect("the binary runs");
    let said = stderr(&output);
    assert!(!output.status.success());
    let line = |part: &str| said.lines().position(|line| line.contains(part));
    let ours = line("XLA_FLAGS is --xla_no_such_flag=1").expect("our line");
    assert!(ours < line("Unknown flag").expect("XLA's line"), "{said}");
}

/// gemma-small with a NaN in a weight of this layer.
fn not_a_number_in(layer: usize) -> TempDir {
    as_safetensors("gemma-small", |tensors| {
        let name = format!("model/layers/{layer}/mlp/down_proj/kernel");
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name);
        tensor.expect("a kernel").bytes[..2].copy_from_slice(&[0xc0, 0x7f]);
    })
}

#[test]
fn logits_that_are_not_numbers_end_a_row_with_a_warning_that_names_the_layer() {
    for check in [&[][..], &["--check-numerics"]] {
        let model = not_a_number_in(2);
        let output = generate(model.path())
            .args(check)
            .output()
            .expect("the binary runs");
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
        assert_eq!(line["token_ids"], json!([]), "{said}");
        assert!(
            said.contains("not numbers") && said.contains("layer 2"),
            "{said}"
        );
    }
    let output = generate(&data("gemma-small"))
        .arg("--check-numerics")
        .output()
        .expect("the binary runs");
    assert!(!stderr(&output).contains("not numbers"));
}
