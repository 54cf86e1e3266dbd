//! Whatever the form and the tree, the arrays are those that Flax has, however they are read.

use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, Format, Naming, Tensor};
use gemma_xla::dtype::DType;

use super::{DEEPMIND, MAXTEXT, assert_is_flax, files, fixture, flax, open, read, written};

#[test]
fn deepminds_trees_have_flax_arrays_in_every_form() {
    for name in DEEPMIND {
        let checkpoint = open(&fixture(name)).unwrap();
        assert_eq!(checkpoint.naming(), Naming::DeepMind, "{name}");
        let folders = name == "nested";
        let format = if folders {
            Format::OrbaxFolders
        } else {
            Format::OrbaxOcdbt
        };
        assert_eq!(checkpoint.format(), format, "{name}");
        assert!(
            checkpoint
                .tensors()
                .all(|tensor| tensor.dtype() == DType::BF16)
        );
        assert_is_flax(&checkpoint, name);
    }
}

#[test]
fn maxtexts_trees_have_flax_arrays_once_their_values_are_undone() {
    for name in MAXTEXT {
        let checkpoint = open(&fixture(name)).unwrap();
        assert_eq!(checkpoint.naming(), Naming::MaxText, "{name}");
        assert_is_flax(&checkpoint, name);
        // In float32, too, what was not changed is the same to the bit, and the rest to rounding.
        for expected in flax().tensors() {
            let found = checkpoint.get(expected.name()).unwrap();
            let changed = ["q_proj", "norm", "embed"];
            let (found, wide) = (read(found, DType::F32), read(expected, DType::F32));
            if !changed.iter().any(|part| expected.name().contains(part)) {
                assert!(found == wide, "{name}: {}", expected.name());
            }
            let values = |bytes: &[u8]| -> Vec<f32> {
                let (elements, _) = bytes.as_chunks();
                elements.iter().map(|x| f32::from_le_bytes(*x)).collect()
            };
            for (x, y) in values(&found).into_iter().zip(values(&wide)) {
                assert!((x - y).abs() <= 1e-6 * y.abs().max(1.0), "{name}: {x} {y}");
            }
        }
    }
}

#[test]
fn the_databases_of_processes_that_were_never_merged_are_one() {
    let mut files = files(&fixture("flat"));
    files.retain(|path, _| path != "manifest.ocdbt" && !path.starts_with("d/"));
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = open(&written(&dir, "unmerged", &files)).unwrap();
    assert_is_flax(&checkpoint, "unmerged");
    // Without one of them, a half of every array is missing.
    files.retain(|path, _| !path.starts_with("ocdbt.process_1/"));
    let error = open(&written(&dir, "half", &files)).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("chunk") && message.contains("is missing"),
        "{message}"
    );
}

#[test]
fn any_part_of_an_array_is_read_as_of_one_that_lies_together() {
    let flax = flax();
    for name in DEEPMIND.iter().chain(&MAXTEXT) {
        let checkpoint = open(&fixture(name)).unwrap();
        for expected in flax.tensors() {
            let found = checkpoint.get(expected.name()).unwrap();
            let to = DType::BF16;
            let shown = format!("{name}: {}", expected.name());
            let whole = read(expected, to);
            let transposed = read(&found.transposed(), to);
            assert!(transposed == read(&expected.transposed(), to), "{shown}");
            for (dim, &size) in expected.shape().iter().enumerate() {
                for range in [0..1, size / 3..size / 2, size / 2..size, size - 1..size] {
                    let Ok(part) = found.slice(dim, range.clone()) else {
                        continue;
                    };
                    let same = expected.slice(dim, range.clone()).unwrap();
                    assert!(
                        read(&part, to) == read(&same, to),
                        "{shown} {dim} {range:?}"
                    );
                    let (part, same) = (part.transposed(), same.transposed());
                    assert!(
                        read(&part, to) == read(&same, to),
                        "{shown} {dim} {range:?}"
                    );
                }
            }
            if found.dtype() != to {
                continue;
            }
            let len = whole.len();
            for (start, end) in [
                (0, 1),
                (1, 4),
                (len / 3, len / 2),
                (len / 2 + 1, len),
                (7, len - 1),
            ] {
                let mut part = vec![0; end - start];
                found.read_at(start, &mut part).unwrap();
                assert!(part == whole[start..end], "{shown} {start}..{end}");
            }
        }
    }
}

#[test]
fn parts_of_one_array_are_read_together() {
    let flax = flax();
    for name in DEEPMIND.iter().chain(&MAXTEXT) {
        let checkpoint = open(&fixture(name)).unwrap();
        let tensors: Vec<_> = checkpoint.tensors().cloned().collect();
        let mut memory: Vec<Vec<u8>> = tensors
            .iter()
            .map(|t| vec![0; t.byte_len() / t.dtype().size() * 2])
            .collect();
        let reads = tensors.iter().zip(&mut memory);
        let reads = reads.map(|(t, out)| (t.clone(), DType::BF16, out.as_mut_slice()));
        Tensor::read_together(reads.collect()).unwrap();
        for (tensor, found) in tensors.iter().zip(&memory) {
            let expected = read(flax.get(tensor.name()).unwrap(), DType::BF16);
            assert!(*found == expected, "{name}: {}", tensor.name());
        }
        let short = &mut [0; 3][..];
        let wrong = vec![(tensors[0].clone(), DType::BF16, short)];
        assert!(Tensor::read_together(wrong).is_err());
    }
}

#[test]
fn all_layers_of_a_scanned_array_are_one_pass() {
    let checkpoint = open(&fixture("maxtext-scanned")).unwrap();
    let pass = |name: &str| checkpoint.get(name).unwrap().pass();
    let (first, second) = (
        pass("model/layers/0/mlp/up_proj/kernel"),
        pass("model/layers/1/mlp/up_proj/kernel"),
    );
    assert!(first.is_some() && first == second);
    assert_ne!(first, pass("model/layers/0/mlp/gate_proj/kernel"));
    assert_eq!(flax().get("model/norm/weight").unwrap().pass(), None);
}

#[test]
fn rows_that_pad_the_embedding_are_left_out() {
    let mut files = files(&fixture("nested"));
    // More rows than are stored: their chunks are missing, which is zeros where not all are stored.
    let edit = |files: &mut std::collections::BTreeMap<String, Vec<u8>>,
                path: &str,
                from: &str,
                to: &str| {
        let text = String::from_utf8(files[path].clone()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        files.insert(path.to_owned(), text.replace(from, to).into());
    };
    edit(
        &mut files,
        "embedder.input_embedding/.zarray",
        "[203,48]",
        "[331,48]",
    );
    let complete = "\"store_array_data_equal_to_fill_value\": true";
    edit(
        &mut files,
        "_METADATA",
        complete,
        &complete.replace("true", "false"),
    );
    let dir = tempfile::tempdir().unwrap();
    let padded = open(&written(&dir, "padded", &files)).unwrap();
    let name = "model/embed_tokens/embedding";
    assert_eq!(padded.get(name).unwrap().shape(), [331, 48]);
    let rows = read(
        &padded.get(name).unwrap().slice(0, 210..331).unwrap(),
        DType::BF16,
    );
    assert!(rows.iter().all(|byte| *byte == 0));
    assert_is_flax(&padded.for_vocabulary(203), "padded");
    assert_eq!(
        padded.for_vocabulary(202).get(name).unwrap().shape(),
        [331, 48]
    );
}

/// A shard of uncompressed chunks, each given by its elements or missing.
fn shard(chunks: &[Option<[f32; 2]>], index_at_end: bool) -> Vec<u8> {
    let index_len = chunks.len() * 16 + 4;
    let mut data: Vec<u8> = Vec::new();
    let mut index: Vec<u8> = Vec::new();
    for chunk in chunks {
        let (offset, len) = match chunk {
            Some(_) if index_at_end => (data.len() as u64, 8),
            Some(_) => ((index_len + data.len()) as u64, 8),
            None => (u64::MAX, u64::MAX),
        };
        index.extend(offset.to_le_bytes());
        index.extend(len.to_le_bytes());
        data.extend(chunk.iter().flatten().flat_map(|x| x.to_le_bytes()));
    }
    index.extend(crc32c::crc32c(&index).to_le_bytes());
    match index_at_end {
        true => [data, index].concat(),
        false => [index, data].concat(),
    }
}

#[test]
fn shards_of_several_chunks_are_read_and_their_missing_chunks_are_filled() {
    for (location, at_end) in [("end", true), ("start", false)] {
        let metadata = serde_json::json!({
            "zarr_format": 3, "node_type": "array", "shape": [3, 4], "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 4]}},
            "chunk_key_encoding": {"name": "default"}, "fill_value": 7.0,
            "codecs": [{"name": "sharding_indexed", "configuration": {
                "chunk_shape": [1, 2],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
                "index_location": location,
            }}],
        });
        let first = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.5]].map(Some);
        // The last row of the second shard is beyond the array.
        let second = [Some([8.0, 9.0]), None, None, None];
        let files = [
            ("x/zarr.json", metadata.to_string().into_bytes()),
            ("x/c/0/0", shard(&first, at_end)),
            ("x/c/1/0", shard(&second, at_end)),
        ];
        let files = files.map(|(path, bytes)| (path.to_owned(), bytes));
        let open = |files: Vec<(String, Vec<u8>)>| {
            Checkpoint::from_orbax(Path::new("shards"), files.into_iter().collect()).unwrap()
        };
        let values = |tensor: &Tensor| -> Vec<f32> {
            let bytes = read(tensor, DType::F32);
            let (elements, _) = bytes.as_chunks();
            elements.iter().map(|x| f32::from_le_bytes(*x)).collect()
        };
        let checkpoint = open(files.to_vec());
        let x = checkpoint.get("x").unwrap();
        let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 8.0, 9.0, 7.0, 7.0];
        assert_eq!(values(x), expected, "{location}");
        let column = x.slice(1, 2..3).unwrap();
        assert_eq!(values(&column), [2.0, 6.0, 7.0], "{location}");

        // A flipped bit in a shard's index.
        let mut damaged = files.to_vec();
        let index = if at_end { damaged[1].1.len() - 10 } else { 3 };
        damaged[1].1[index] ^= 4;
        let damaged = open(damaged);
        let error = damaged
            .get("x")
            .unwrap()
            .read_into(DType::F32, &mut [0; 48]);
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("the checksum of its shard's index"),
            "{message}"
        );
    }
}

#[test]
fn a_chunk_whose_frame_does_not_state_its_size_is_read() {
    use std::io::Write;

    let elements: Vec<u8> = (0..6_u8).flat_map(|x| f32::from(x).to_le_bytes()).collect();
    // Its writer learns the size at the end, and asks for the window of its level: 4 MiB.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 13).unwrap();
    encoder.write_all(&elements[..8]).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&elements[8..]).unwrap();
    let frame = encoder.finish().unwrap();
    let metadata = serde_json::json!({
        "zarr_format": 2, "shape": [2, 3], "chunks": [2, 3], "dtype": "<f4", "order": "C",
        "compressor": {"id": "zstd", "level": 13}, "fill_value": null, "filters": null,
    });
    let files = [
        ("x/.zarray", metadata.to_string().into_bytes()),
        ("x/0.0", frame),
    ];
    let files = files.map(|(path, bytes)| (path.to_owned(), bytes));
    let checkpoint = Checkpoint::from_orbax(Path::new("folder"), files.into()).unwrap();
    assert_eq!(read(checkpoint.get("x").unwrap(), DType::F32), elements);
}
