//! The index of a checkpoint in shards: which tensor is in which file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{Error, Result};
use crate::input_file;

/// The largest index that is read. The index of a model with a hundred thousand tensors has about
/// ten megabytes.
const MAX_FILE: u64 = 1 << 26;

/// An index's content: for each shard, by name, the names of its tensors in order.
pub(super) type Shards = BTreeMap<String, Vec<String>>;

/// Reads an index file.
pub(super) fn read(file: &Path) -> Result<Shards> {
    let failed = |source| Error::Open {
        file: file.to_path_buf(),
        source,
    };
    let Some(text) = input_file::read(file, MAX_FILE).map_err(failed)? else {
        return Err(Error::IndexTooLarge {
            file: file.to_path_buf(),
            limit: MAX_FILE,
        });
    };
    shards(file, &text)
}

/// The shards that an index names, each with the names of its tensors in order. `text` is the
/// index's content, and `file` the name that errors give it.
///
/// # Errors
/// Where the text is not an index, or names a shard by anything but the name of a file beside it.
pub fn shards(file: &Path, text: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    let index: Index = serde_json::from_slice(text).map_err(|source| Error::Index {
        file: file.to_path_buf(),
        source,
    })?;
    let mut shards = Shards::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_plain_file_name(&shard) {
            return Err(Error::ShardName {
                file: file.to_path_buf(),
                tensor,
                shard,
            });
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() {
        return Err(Error::EmptyIndex {
            file: file.to_path_buf(),
        });
    }
    Ok(shards)
}

/// Whether a name is that of a file in the same folder: one that cannot leave it, in any system's
/// notation.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    components.next() == Some(Component::Normal(OsStr::new(name)))
        && components.next().is_none()
        && !name.contains(|c: char| c == '\\' || c == ':' || c.is_control())
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// The pairs of a weight map, by tensor name.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

/// Reads a weight map. A plain map type would silently keep the second of two equal names.
struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if pairs.contains_key(&tensor) {
                return Err(A::Error::custom(format!(
                    "weight_map names tensor {tensor:?} twice"
                )));
            }
            pairs.insert(tensor, shard);
        }
        Ok(WeightMap(pairs))
    }
}
