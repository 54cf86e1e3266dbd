//! Orbax checkpoints: the format in which DeepMind, Kaggle and MaxText publish models.
//!
//! A tree of arrays is stored as zarr arrays of version 2 or 3, in chunks, under keys that are
//! files in the tree's folder or entries of an OCDBT database there. What is read of both formats
//! is what Orbax writes of them.
//!
//! A chunk is compressed as a whole and may be a whole embedding. It is decompressed as a stream,
//! straight into its destination; see [`gather`].

mod array;
mod chunk;
mod find;
mod folder;
mod gather;
mod grid;
mod item;
mod legacy;
mod manifest;
pub(super) mod maxtext;
mod node;
mod ocdbt;
mod problem;
mod store;
mod tree;
mod wire;
mod zarr;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use array::Array;
pub(super) use gather::Target;
pub use problem::OrbaxProblem;

use self::folder::{Disk, Folder, Memory};
use self::item::{Form, Item};
use self::tree::LEGACY_FILE;
use super::tensor::Tensor;
use super::{Format, Result};

/// What was opened.
pub(super) enum Opened {
    Tensors {
        path: PathBuf,
        format: Format,
        files: Vec<PathBuf>,
        tensors: Vec<Tensor>,
        /// The names of arrays that are not read.
        left_out: Vec<String>,
    },
    /// A file of Flax's msgpack form, which older versions of Orbax could save a whole tree as.
    Msgpack(PathBuf),
}

/// Opens the Orbax checkpoint in a folder, or below it; nothing where there is none.
pub(super) fn open(dir: &Path) -> Result<Option<Opened>> {
    let Some(dir) = find::find(dir)? else {
        return Ok(None);
    };
    let form = Form::of(&dir).unwrap_or(Form::Folders);
    if form == Form::Aggregate {
        return Ok(Some(Opened::Msgpack(dir.join(LEGACY_FILE))));
    }
    let item = item::open(Arc::new(Disk(dir.clone())), &dir, form)?;
    Ok(Some(opened(item)))
}

/// Opens an item whose files are in memory, by relative path. `name` is the folder that messages
/// name.
pub(super) fn open_memory(name: &Path, files: BTreeMap<String, Vec<u8>>) -> Result<Opened> {
    let has = |start: &str| files.keys().any(|path| path.starts_with(start));
    let form = match (has(ocdbt::MANIFEST_FILE), has(item::PROCESS_PREFIX)) {
        (true, _) => Form::Ocdbt,
        (false, true) => Form::Processes,
        (false, false) => Form::Folders,
    };
    let files: Arc<dyn Folder> = Arc::new(Memory::new(files));
    Ok(opened(item::open(files, name, form)?))
}

fn opened(item: Item) -> Opened {
    let tensor = |(name, array): (String, Array)| Tensor::chunked(&name, Arc::new(array));
    Opened::Tensors {
        path: item.path,
        format: item.format,
        files: item.files,
        left_out: item.left_out,
        tensors: item.arrays.into_iter().map(tensor).collect(),
    }
}
