//! safetensors as Transformers writes it for its PyTorch models.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Metadata, TensorInfo};

use super::shards::{Names, write_all};
use super::{Item, Progress, WriteError, stream};
use crate::checkpoint::SAFETENSORS_INDEX_FILE;
use crate::checkpoint::safetensors::{LENGTH_BYTES, format_dtype};

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
        let header = header(&shard).map_err(|error| output.failed(error))?;
        output.put(&(header.len() as u64).to_le_bytes())?;
        output.put(header.as_bytes())?;
        for item in shard {
            stream(item, progress, |bytes| output.put(bytes))?;
        }
        output.finish()
    })
}

/// The header, padded with spaces so that tensors begin at a multiple of eight bytes.
fn header(items: &[&Item]) -> io::Result<String> {
    let mut tensors = Vec::new();
    let mut at = 0;
    for item in items {
        let end = at + item.byte_len() as usize;
        let info = TensorInfo {
            dtype: format_dtype(item.dtype),
            shape: item.tensor.shape().to_vec(),
            data_offsets: (at, end),
        };
        tensors.push((item.name.clone(), info));
        at = end;
    }
    // Transformers asks whose tensors these are.
    let whose = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(whose), tensors).map_err(io::Error::other)?;
    let mut text = serde_json::to_string(&metadata)?;
    let len = text.len().next_multiple_of(LENGTH_BYTES as usize);
    text.extend(std::iter::repeat_n(' ', len - text.len()));
    Ok(text)
}
