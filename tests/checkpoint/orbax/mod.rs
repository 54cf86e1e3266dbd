//! Checkpoints that Orbax wrote (`tools/orbax/make_fixtures.py`): the weights of
//! tests/data/random-mqa in every form.

mod damaged;
mod forms;
mod places;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gemma_xla::checkpoint::{Checkpoint, Error, Tensor};
use gemma_xla::dtype::DType;
use gemma_xla::source::open_checkpoint;
use tempfile::TempDir;

/// The fixtures with DeepMind's trees, and those with MaxText's.
const DEEPMIND: [&str; 4] = ["flat", "tall", "nested", "old-flat"];
const MAXTEXT: [&str; 2] = ["maxtext-scanned", "maxtext-state"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn fixture(name: &str) -> PathBuf {
    data("orbax").join(name)
}

/// A checkpoint by Flax's names.
fn open(path: &Path) -> Result<Checkpoint, Error> {
    open_checkpoint(path)
}

/// The checkpoint with the same weights that Flax wrote.
fn flax() -> Checkpoint {
    open(&data("random-mqa")).unwrap()
}

/// The files below a folder, by path relative to it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A folder in `dir` with these files.
fn written(dir: &TempDir, name: &str, files: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let folder = dir.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn read(tensor: &Tensor, to: DType) -> Vec<u8> {
    let mut bytes = vec![0; tensor.byte_len() / tensor.dtype().size() * to.size()];
    tensor.read_into(to, &mut bytes).unwrap();
    bytes
}

/// Asserts that a checkpoint has the arrays that Flax wrote, cast to bfloat16, and no others.
fn assert_is_flax(checkpoint: &Checkpoint, shown: &str) {
    let flax = flax();
    let names: Vec<&str> = checkpoint.names().collect();
    assert_eq!(names, flax.names().collect::<Vec<_>>(), "{shown}");
    for expected in flax.tensors() {
        let found = checkpoint.get(expected.name()).unwrap();
        assert_eq!(found.shape(), expected.shape(), "{shown}");
        let same = read(found, DType::BF16) == read(expected, DType::BF16);
        assert!(same, "{shown}: {}", expected.name());
    }
}
