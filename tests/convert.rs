//! `convert` and `inspect`, through the binary.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{copy_of, data, fails_naming, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::source::open_checkpoint;
use serde_json::Value;
use tempfile::TempDir;

fn convert(source: &Path, destination: &Path, rest: &[&str]) {
    let output = gemma_xla()
        .arg("convert")
        .args([source, destination])
        .args(rest)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(output.stdout, b"");
}

fn inspect(model: &Path) -> Value {
    let output = gemma_xla()
        .args(["inspect", "--json"])
        .arg(model)
        .output()
        .expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let fits = report["fit"]["fits"] != false;
    assert_eq!(output.status.code(), Some(i32::from(!fits)));
    report
}

fn file_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be listed").file_name())
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

fn temporary() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn read(file: PathBuf) -> Vec<u8> {
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn a_round_trip_through_every_form_ends_with_the_bytes_that_flax_wrote() {
    for model in [
        "gemma-small",
        "random-mha",
        "random-bias",
        "random-untied",
        "random-mixed",
    ] {
        let dir = temporary();
        let [npz, safetensors, msgpack] =
            ["npz", "safetensors", "msgpack"].map(|to| dir.path().join(to));
        convert(&data(model), &npz, &["--to", "npz"]);
        convert(
            &npz,
            &safetensors,
            &["--to", "safetensors", "--max-shard-size", "100KB"],
        );
        convert(&safetensors, &msgpack, &["--to", "msgpack"]);
        let file = "flax_model.msgpack";
        assert!(
            read(msgpack.join(file)) == read(data(model).join(file)),
            "{model}"
        );
        assert_eq!(
            read(msgpack.join("config.json")),
            read(data(model).join("config.json"))
        );
        for folder in [npz, safetensors, msgpack] {
            assert_eq!(
                inspect(&folder)["fit"]["fits"],
                true,
                "{}",
                folder.display()
            );
        }
    }
}

#[test]
fn shards_and_their_index_are_those_that_flax_writes() {
    let dir = temporary();
    let [whole, shards] = ["whole", "shards"].map(|name| dir.path().join(name));
    convert(&data("random-sharded"), &whole, &["--to", "msgpack"]);
    assert_eq!(
        file_names(&whole),
        [
            "config.json",
            "flax_model.msgpack",
            "generation_config.json"
        ]
    );
    convert(
        &whole,
        &shards,
        &["--to", "msgpack", "--max-shard-size", "60KB"],
    );
    let names = file_names(&shards);
    assert_eq!(
        names
            .iter()
            .filter(|name| name.ends_with(".msgpack"))
            .count(),
        5
    );
    for name in names {
        let expected = read(data("random-sharded").join(&name));
        assert!(read(shards.join(&name)) == expected, "{name}");
    }
}

#[test]
fn safetensors_have_pytorch_names_and_transposed_kernels() {
    let dir = temporary();
    let folder = dir.path().join("st");
    convert(&data("random-gqa"), &folder, &["--to", "safetensors"]);
    let file = read(folder.join("model.safetensors"));
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    assert_eq!(header["__metadata__"]["format"], "pt");
    let kernel = &header["model.layers.0.self_attn.q_proj.weight"];
    assert_eq!(kernel["shape"], serde_json::json!([96, 40]));
    let begin = 8 + len + kernel["data_offsets"][0].as_u64().unwrap() as usize;
    let flax = open_checkpoint(&data("random-gqa")).unwrap();
    let ours = flax.get("model/layers/0/self_attn/q_proj/kernel").unwrap();
    let mut element = [0; 2];
    // [in 3, out 5] of Flax's is [out 5, in 3] here.
    ours.read_at((3 * 96 + 5) * 2, &mut element).unwrap();
    assert_eq!(element, file[begin + (5 * 40 + 3) * 2..][..2]);
}

#[test]
fn a_cast_changes_every_tensor() {
    let dir = temporary();
    let folder = dir.path().join("wide");
    convert(
        &data("gemma-small"),
        &folder,
        &["--to", "npz", "--dtype", "f32"],
    );
    let (wide, narrow) = (
        open_checkpoint(&folder).unwrap(),
        open_checkpoint(&data("gemma-small")).unwrap(),
    );
    assert_eq!(wide.total_bytes(), 2 * narrow.total_bytes());
    for (wide, narrow) in wide.tensors().zip(narrow.tensors()) {
        assert_eq!(wide.dtype(), DType::F32);
        let (mut a, mut b) = (vec![0; wide.byte_len()], vec![0; wide.byte_len()]);
        wide.read_into(DType::F32, &mut a).unwrap();
        narrow.read_into(DType::F32, &mut b).unwrap();
        assert!(a == b, "{}", wide.name());
    }
}

#[test]
fn a_tokenizer_goes_along() {
    let dir = temporary();
    let folder = dir.path().join("npz");
    convert(&data("gemma-small"), &folder, &["--to", "npz"]);
    let name = "tokenizer.json";
    assert_eq!(
        read(folder.join(name)),
        read(data("gemma-small").join(name))
    );
    assert_eq!(inspect(&folder)["tokenizer"]["vocabulary_size"], 2048);
}

#[test]
fn a_destination_that_exists_is_kept_unless_forced() {
    let dir = temporary();
    let folder = dir.path().join("model");
    convert(&data("random-gqa"), &folder, &["--to", "npz"]);
    let mut again = gemma_xla();
    again.arg("convert").arg(data("random-mha")).arg(&folder);
    again.args(["--to", "msgpack"]);
    fails_naming(
        &mut again,
        &[&folder.to_string_lossy(), "exists", "--force"],
    );
    convert(
        &data("random-mha"),
        &folder,
        &["--to", "msgpack", "--force"],
    );
    assert_eq!(
        file_names(&folder),
        [
            "config.json",
            "flax_model.msgpack",
            "generation_config.json"
        ]
    );
    assert_eq!(
        file_names(dir.path()),
        ["model"],
        "nothing is left beside it"
    );
}

#[test]
fn a_folder_with_other_things_is_not_replaced() {
    let dir = temporary();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let mut command = gemma_xla();
    command
        .arg("convert")
        .arg(data("random-gqa"))
        .arg(dir.path());
    command.args(["--to", "npz", "--force"]);
    fails_naming(&mut command, &["letter.txt", "not replaced"]);
    assert_eq!(file_names(dir.path()), ["letter.txt"]);
}

#[test]
fn a_checkpoint_is_not_converted_over_itself() {
    let model = copy_of("random-gqa");
    let mut command = gemma_xla();
    command.arg("convert").args([model.path(), model.path()]);
    command.args(["--to", "npz", "--force"]);
    fails_naming(&mut command, &["contains the source"]);
    assert!(model.path().join("flax_model.msgpack").is_file());
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let model = copy_of("random-gqa");
    let file = model.path().join("flax_model.msgpack");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let dir = temporary();
    let mut command = gemma_xla();
    command
        .arg("convert")
        .arg(model.path())
        .arg(dir.path().join("out"));
    command.args(["--to", "npz"]);
    fails_naming(&mut command, &["flax_model.msgpack", "cut short"]);
    assert_eq!(file_names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_tensor_without_a_pytorch_name_is_named() {
    let dir = temporary();
    let tensor = [
        b"\x81\xa1x\xc7\x11\x01\x93\x91\x01\xa7float32\xc4\x04".as_slice(),
        &[0; 4],
    ]
    .concat();
    let file = dir.path().join("flax_model.msgpack");
    fs::write(&file, tensor).unwrap();
    let mut command = gemma_xla();
    command
        .arg("convert")
        .arg(&file)
        .arg(dir.path().join("out"));
    command.args(["--to", "safetensors"]);
    fails_naming(
        &mut command,
        &["flax_model.msgpack", "\"x\"", "no name in PyTorch"],
    );
    assert_eq!(file_names(dir.path()), ["flax_model.msgpack"]);
}

#[test]
fn inspect_says_what_is_missing_left_over_and_of_another_shape() {
    let model = copy_of("random-gqa");
    let config = model.path().join("config.json");
    common::edit_json(&config, "num_hidden_layers", Some(4.into()));
    common::edit_json(&config, "vocab_size", Some(132.into()));
    let fit = &inspect(model.path())["fit"];
    assert_eq!(fit["fits"], false);
    assert_eq!(fit["missing"].as_array().unwrap().len(), 9);
    assert_eq!(
        fit["missing"][0]["name"],
        "model/layers/3/input_layernorm/weight"
    );
    assert_eq!(
        fit["wrong_shape"][0]["name"],
        "model/embed_tokens/embedding"
    );
    assert_eq!(
        fit["wrong_shape"][0]["expected"],
        serde_json::json!([132, 40])
    );
    common::edit_json(&config, "num_hidden_layers", Some(2.into()));
    let fit = &inspect(model.path())["fit"];
    assert_eq!(fit["left_over"].as_array().unwrap().len(), 9);

    let table = gemma_xla()
        .arg("inspect")
        .arg(model.path())
        .output()
        .unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    for line in [
        "format      Flax msgpack, Flax names",
        "tokenizer   none",
        "config      num_hidden_layers 2",
        "left over   model/layers/2/mlp/down_proj/kernel [88, 40]",
        "wrong shape model/embed_tokens/embedding [131, 40], expected [132, 40]",
    ] {
        assert!(
            table.lines().any(|found| found == line),
            "no {line:?} in {table}"
        );
    }
}

#[test]
fn inspect_works_without_a_configuration_and_says_so() {
    let model = copy_of("random-gqa");
    fs::remove_file(model.path().join("config.json")).unwrap();
    let report = inspect(model.path());
    assert_eq!(report["fit"], Value::Null);
    assert!(
        report["config"]["problem"]
            .as_str()
            .unwrap()
            .contains("config.json")
    );
    assert_eq!(report["total"]["tensors"], 29);
    assert_eq!(report["total"]["bytes"], 135_840);
    assert_eq!(report["dtypes"]["float16"]["parameters"], 67_920);
    // A file by itself is inspected the same way.
    let file = model.path().join("flax_model.msgpack");
    assert_eq!(inspect(&file)["total"], report["total"]);
}
