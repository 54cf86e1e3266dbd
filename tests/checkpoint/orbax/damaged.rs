//! Orbax files that were cut, flipped or edited: an error that is one line and names file and
//! array, and never a panic.

use std::collections::BTreeMap;
use std::path::Path;

use gemma_xla::checkpoint::Checkpoint;
use gemma_xla::dtype::DType;
use gemma_xla::model::name_tables;
use proptest::prelude::*;

use super::super::mangled::{apply, edits};
use super::{assert_is_flax, files, fixture};

/// The folder that messages name.
const FOLDER: &str = "sample-folder";
/// What a B+tree node begins with, and what a manifest does.
const NODE: [u8; 4] = [0x0c, 0xdb, 0x20, 0xde];
const MANIFEST: [u8; 4] = [0x0c, 0xdb, 0x3a, 0x2a];

type Files = BTreeMap<String, Vec<u8>>;

/// Opens the files and reads every tensor. The first error's message is given.
fn outcome(files: &Files) -> Result<Checkpoint, String> {
    let checkpoint = Checkpoint::from_orbax(Path::new(FOLDER), files.clone())
        .and_then(|stored| stored.canonical(&name_tables()));
    let checkpoint = checkpoint.map_err(|error| error.to_string())?;
    for tensor in checkpoint.tensors() {
        let mut bytes = vec![0; tensor.byte_len().min(1 << 20)];
        let read = match bytes.len() == tensor.byte_len() {
            true => tensor.read_into(tensor.dtype(), &mut bytes),
            false => tensor.read_at(0, &mut bytes),
        };
        read.map_err(|error| {
            let message = error.to_string();
            assert!(message.contains("array \""), "no array: {message}");
            message
        })?;
    }
    Ok(checkpoint)
}

fn assert_one_line(message: &str) {
    assert!(
        message.contains(FOLDER) && !message.contains('\n'),
        "{message}"
    );
}

/// The frames in a file: where each begins, and how long it is.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for at in 0..bytes.len().saturating_sub(17) {
        if bytes[at..].starts_with(&NODE) || bytes[at..].starts_with(&MANIFEST) {
            let len = u64::from_le_bytes(bytes[at + 4..at + 12].try_into().unwrap());
            if len >= 18 && len <= (bytes.len() - at) as u64 {
                found.push((at, len as usize));
            }
        }
    }
    found
}

/// Makes the checksums in a file right, and the length of a frame that is the whole file.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= 18 && bytes.starts_with(&MANIFEST) {
        let len = bytes.len() as u64;
        bytes[4..12].copy_from_slice(&len.to_le_bytes());
    }
    for (at, len) in frames(&bytes) {
        let end = at + len - 4;
        let crc = crc32c::crc32c(&bytes[at..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

#[test]
fn every_cut_of_every_file_is_an_error_or_cuts_what_is_not_needed() {
    for name in ["flat", "tall", "old-flat"] {
        let whole = files(&fixture(name));
        for (path, bytes) in &whole {
            let needed = path == "_METADATA" || path == "checkpoint" || path.ends_with(".ocdbt");
            let step = if bytes.len() < 200 {
                1
            } else {
                bytes.len() / 50
            };
            for len in (0..bytes.len()).step_by(step) {
                let mut cut = whole.clone();
                cut.insert(path.clone(), bytes[..len].to_vec());
                match outcome(&cut) {
                    Err(message) => assert_one_line(&message),
                    Ok(_) if needed && path == "manifest.ocdbt" => {
                        panic!("{name}: {path} cut to {len} bytes is read")
                    }
                    Ok(checkpoint) => assert_is_flax(&checkpoint, path),
                }
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_manifests_and_nodes_is_an_error_that_names_the_file() {
    for name in ["flat", "tall"] {
        let whole = files(&fixture(name));
        let dead = |path: &str| path.starts_with("ocdbt.process_") && path.ends_with("ocdbt");
        for (path, bytes) in whole.iter().filter(|(path, _)| !dead(path)) {
            for (at, len) in frames(bytes) {
                for byte in (at..at + len).step_by(if len > 400 { 13 } else { 1 }) {
                    let mut flipped = whole.clone();
                    flipped.get_mut(path).unwrap()[byte] ^= 1 << (byte % 8);
                    match outcome(&flipped) {
                        Err(message) => {
                            assert_one_line(&message);
                            let named = Path::new(FOLDER).join(path);
                            assert!(
                                message.contains(named.to_str().unwrap()),
                                "{path}: {message}"
                            );
                        }
                        // A node of an older version, or of a database that was merged.
                        Ok(checkpoint) => {
                            assert!(path != "manifest.ocdbt");
                            assert_is_flax(&checkpoint, path);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn flipped_bits_of_chunks_are_errors_that_name_the_array_or_other_values() {
    let whole = files(&fixture("old-flat"));
    // What a zstd frame begins with. Nothing but the frame's own structure tells that its content
    // changed.
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut errors = 0;
    for (path, bytes) in whole.iter().filter(|(path, _)| path.contains("/d/")) {
        let heads = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&ZSTD));
        let places = heads.flat_map(|head| [head, head + 3, head + 5, head + 8, head + 40]);
        for at in places.filter(|at| *at < bytes.len()) {
            let mut flipped = whole.clone();
            flipped.get_mut(path).unwrap()[at] ^= 0x20;
            if let Err(message) = outcome(&flipped) {
                assert_one_line(&message);
                errors += 1;
            }
        }
    }
    assert!(errors >= 20, "{errors}");
}

#[test]
fn a_damaged_chunk_is_named_with_its_array_and_file() {
    let mut files = files(&fixture("maxtext-state"));
    let path = "params.params.decoder.decoder_norm.scale/c/0";
    let chunk = files.get_mut(path).unwrap();
    chunk[2] ^= 0xff;
    let message = outcome(&files).unwrap_err();
    for part in [
        &format!("{FOLDER}/{path}"),
        "array \"params/params/decoder/decoder_norm/scale\"",
        "chunk c/0 is damaged",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // An empty chunk.
    files.get_mut(path).unwrap().clear();
    let message = outcome(&files).unwrap_err();
    assert!(
        message.contains("shorter than its shard's index"),
        "{message}"
    );
}

#[test]
fn a_missing_chunk_is_an_error_where_all_are_stored_and_zeros_elsewhere() {
    let mut files = files(&fixture("nested"));
    files.remove("layer_1.mlp.linear/2.1").unwrap();
    let message = outcome(&files).unwrap_err();
    for part in ["layer_1/mlp/linear", "chunk 2.1 is missing"] {
        assert!(message.contains(part), "{message}");
    }
    let text = String::from_utf8(files["_METADATA"].clone()).unwrap();
    let all = "\"store_array_data_equal_to_fill_value\": true";
    assert!(text.contains(all));
    files.insert("_METADATA".to_owned(), text.replace(all, "\"x\": 1").into());
    let checkpoint = outcome(&files).unwrap();
    let tensor = checkpoint
        .get("model/layers/1/mlp/down_proj/kernel")
        .unwrap();
    let part = tensor.slice(0, 99..100).unwrap();
    let mut bytes = vec![1; part.byte_len()];
    part.read_into(DType::BF16, &mut bytes).unwrap();
    assert!(
        bytes.iter().any(|byte| *byte != 0),
        "another chunk has values"
    );
}

#[test]
fn metadata_that_is_not_supported_is_refused_by_name() {
    let whole = files(&fixture("nested"));
    let path = "final_norm.scale/.zarray";
    for (from, to, words) in [
        (
            "\"compressor\":null",
            "\"compressor\":{\"id\":\"blosc\"}",
            "compressor \"blosc\"",
        ),
        (
            "\"compressor\":null",
            "\"compressor\":{\"id\":\"gzip\"}",
            "compressor \"gzip\"",
        ),
        ("\"order\":\"C\"", "\"order\":\"F\"", "order \"F\""),
        (
            "\"filters\":null",
            "\"filters\":[{\"id\":\"delta\"}]",
            "filter \"delta\"",
        ),
        ("bfloat16", "<f8", "dtype \"<f8\""),
        ("bfloat16", "float8_e4m3fn", "dtype \"float8_e4m3fn\""),
        ("\"chunks\":[48]", "\"chunks\":[0]", "malformed metadata"),
        (
            "\"shape\":[48]",
            "\"shape\":[18446744073709551615]",
            "too large",
        ),
        ("\"shape\"", "\"form\"", "missing field `shape`"),
    ] {
        let mut files = whole.clone();
        let text = String::from_utf8(files[path].clone()).unwrap();
        assert!(text.contains(from), "{text}");
        files.insert(path.to_owned(), text.replace(from, to).into());
        let message = outcome(&files).unwrap_err();
        assert_one_line(&message);
        for part in [words, "final_norm/scale", path] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let mut files = whole.clone();
    files.retain(|name, _| !name.starts_with("final_norm"));
    let message = outcome(&files).unwrap_err();
    assert!(
        message.contains("final_norm/scale") && message.contains("none is stored"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn files_that_were_edited_never_panic(
        name in prop::sample::select(vec!["flat", "tall", "old-flat", "nested", "maxtext-state"]),
        file in any::<prop::sample::Index>(),
        edits in edits(),
        seal in any::<bool>(),
    ) {
        let mut files = files(&fixture(name));
        let paths: Vec<String> = files.keys().filter(|path| !path.contains("_sharding")).cloned().collect();
        let path = file.get(&paths);
        let bytes = apply(files[path].clone(), edits);
        files.insert(path.clone(), if seal { sealed(bytes) } else { bytes });
        if let Err(message) = outcome(&files) {
            assert_one_line(&message);
        }
    }
}
