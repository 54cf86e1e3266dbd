//! safetensors as Transformers writes it for its PyTorch models.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::shards::{Names, write_all};
use super::{Item, Progress, WriteError, stream};
use crate::checkpoint::SAFETENSORS_INDEX_FILE;
use crate::checkpoint::safetensors::{LENGTH_BYTES, METADATA, dtype_name};

const NAMES: Names = Names {
    stem: "model",
    extension: "safetensors",
    index: SAFETENSORS_INDEX_FILE,
};

/// Writes the tensors, which have PyTorch's names and layouts.
pub(super) fn write(
    dir: &Path,
    items: &[Item],
    max_shard_bytes: u64,
    progress: Progress,
) -> Result<Vec<PathBuf>, WriteError> {
    write_all(dir, &NAMES, items, max_shard_bytes, |mut output, shard| {
        // Wide elements first, so that each tensor begins at a multiple of its elements' size.
        let mut shard: Vec<&Item> = shard.iter().collect();
        shard.sort_by_key(|item| (std::cmp::Reverse(item.dtype.size()), &item.name));
        let header = header(&shard);
        output.put(&(header.len() as u64).to_le_bytes())?;
        output.put(header.as_bytes())?;
        for item in shard {
            stream(item, progress, |bytes| output.put(bytes))?;
        }
        output.finish()
    })
}

/// The header, padded with spaces so that tensors begin at a multiple of eight bytes.
fn header(items: &[&Item]) -> String {
    let mut header = Map::new();
    // Transformers asks whose tensors these are.
    header.insert(METADATA.to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for item in items {
        let end = at + item.byte_len();
        let value = json!({
            "dtype": dtype_name(item.dtype),
            "shape": item.tensor.shape(),
            "data_offsets": [at, end],
        });
        header.insert(item.name.clone(), value);
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    let len = text.len().next_multiple_of(LENGTH_BYTES as usize);
    text.extend(std::iter::repeat_n(' ', len - text.len()));
    text
}
