//! Which tensors go into which file, and the index that says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Item, Output, WriteError};

/// The names of a format's files.
pub(super) struct Names {
    /// What they begin with: `flax_model`.
    pub(super) stem: &'static str,
    /// What they end in, without the dot: `msgpack`.
    pub(super) extension: &'static str,
    /// The index.
    pub(super) index: &'static str,
}

/// Consecutive tensors, as many as fit into `max_bytes`, and at least one.
pub(super) fn split(items: &[Item], max_bytes: u64) -> Vec<&[Item]> {
    let mut shards = Vec::new();
    let mut rest = items;
    loop {
        let mut bytes = 0_u64;
        let fitting = rest
            .iter()
            .take_while(|item| {
                bytes = bytes.saturating_add(item.byte_len());
                bytes <= max_bytes
            })
            .count();
        let (shard, after) = rest.split_at(fitting.max(1).min(rest.len()));
        shards.push(shard);
        rest = after;
        if rest.is_empty() {
            return shards;
        }
    }
}

/// Writes each shard with `write`, and an index where there are several. Returns the files with
/// tensors.
pub(super) fn write_all(
    dir: &Path,
    names: &Names,
    items: &[Item],
    max_bytes: u64,
    mut write: impl FnMut(Output, &[Item]) -> Result<PathBuf, WriteError>,
) -> Result<Vec<PathBuf>, WriteError> {
    let shards = split(items, max_bytes);
    let Names {
        stem, extension, ..
    } = names;
    if let [all] = shards[..] {
        let output = Output::create(dir, &format!("{stem}.{extension}"))?;
        return Ok(vec![write(output, all)?]);
    }
    let mut files = Vec::new();
    let mut weight_map = BTreeMap::new();
    let count = shards.len();
    for (number, shard) in shards.into_iter().enumerate() {
        let name = format!("{stem}-{:05}-of-{count:05}.{extension}", number + 1);
        files.push(write(Output::create(dir, &name)?, shard)?);
        weight_map.extend(shard.iter().map(|item| (item.name.as_str(), name.clone())));
    }
    let total_size = items.iter().map(Item::byte_len).sum();
    write_index(
        Output::create(dir, names.index)?,
        &Index {
            metadata: Metadata { total_size },
            weight_map,
        },
    )?;
    Ok(files)
}

/// The index as Transformers writes it.
#[derive(Serialize)]
struct Index<'a> {
    metadata: Metadata,
    weight_map: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct Metadata {
    total_size: u64,
}

fn write_index(mut output: Output, index: &Index) -> Result<PathBuf, WriteError> {
    let text = serde_json::to_string_pretty(index).map_err(|error| output.failed(error.into()))?;
    output.put(text.as_bytes())?;
    output.put(b"\n")?;
    output.finish()
}
