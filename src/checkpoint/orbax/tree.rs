//! The names that a tree's arrays have: stored ones join the levels by dots, and keys may have dots
//! of their own.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde_json::Value;

use super::OrbaxProblem;
use super::folder::{Folder, Region};
use super::legacy::{self, Leaf};
use super::problem::{Fault, unreadable};

/// The tree's metadata.
pub(super) const METADATA_FILE: &str = "_METADATA";
/// What it was before: msgpack of the tree, with a placeholder for each array.
pub(super) const LEGACY_FILE: &str = "checkpoint";
/// The most bytes of either.
const MAX_FILE: u64 = 1 << 26;

/// What the tree says of its arrays.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The names by levels, joined by slashes, of the arrays by their stored names.
    pub(super) names: BTreeMap<String, Leaf>,
    /// Whether every chunk is stored, even one of fill values only.
    pub(super) complete: bool,
    /// The file that it was read from.
    pub(super) file: &'static str,
}

/// Reads what a folder says of its tree, if it says anything.
pub(super) fn read(files: &dyn Folder) -> Result<Option<Tree>, Fault> {
    if let Some(text) = small_file(files, METADATA_FILE)? {
        let tree = parse_metadata(&text).map_err(|problem| problem.of(METADATA_FILE))?;
        return Ok(Some(tree));
    }
    if let Some(bytes) = small_file(files, LEGACY_FILE)? {
        let names = legacy::names(&bytes).map_err(|problem| problem.of(LEGACY_FILE))?;
        return Ok(Some(Tree {
            names,
            complete: false,
            file: LEGACY_FILE,
        }));
    }
    Ok(None)
}

fn small_file(files: &dyn Folder, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let read = || {
        let source = files.open(name)?;
        let region = Region {
            len: source.size(),
            source,
            file: name.into(),
            offset: 0,
        };
        region.bytes(MAX_FILE)
    };
    match read() {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => Err(OrbaxProblem::TooLarge {
            kind: "tree's metadata",
            limit: MAX_FILE,
        }
        .of(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The folder of an array, or of a checkpoint, may have the name.
        Err(_) if is_folder(files, name) => Ok(None),
        Err(source) => Err(unreadable(source).of(name)),
    }
}

fn is_folder(files: &dyn Folder, name: &str) -> bool {
    let children = files.children("").unwrap_or_default();
    children
        .iter()
        .any(|child| child.is_folder && child.name == name)
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    tree_metadata: BTreeMap<String, Entry>,
    #[serde(default)]
    store_array_data_equal_to_fill_value: Option<bool>,
}

#[derive(Deserialize)]
struct Entry {
    key_metadata: Vec<Key>,
    #[serde(default)]
    value_metadata: Kind,
}

#[derive(Deserialize)]
struct Key {
    key: Value,
}

#[derive(Default, Deserialize)]
struct Kind {
    #[serde(default)]
    value_type: String,
    #[serde(default)]
    skip_deserialize: bool,
}

fn parse_metadata(text: &[u8]) -> Result<Tree, OrbaxProblem> {
    let metadata: Metadata =
        serde_json::from_slice(text).map_err(|error| OrbaxProblem::Metadata {
            what: error.to_string(),
        })?;
    let mut names = BTreeMap::new();
    for entry in metadata.tree_metadata.into_values() {
        let keys: Vec<String> = entry
            .key_metadata
            .into_iter()
            .map(|key| match key.key {
                Value::String(text) => text,
                other => other.to_string(),
            })
            .collect();
        let kind = entry.value_metadata;
        let is_array = matches!(kind.value_type.as_str(), "jax.Array" | "np.ndarray");
        let leaf = Leaf {
            name: keys.join("/"),
            required: is_array && !kind.skip_deserialize,
        };
        names.insert(keys.join("."), leaf);
    }
    Ok(Tree {
        names,
        complete: metadata.store_array_data_equal_to_fill_value == Some(true),
        file: METADATA_FILE,
    })
}

impl Tree {
    /// The name of the array that is stored by this one.
    pub(super) fn name(&self, stored: &str) -> String {
        match self.names.get(stored) {
            Some(leaf) => leaf.name.clone(),
            None => stored.replace('.', "/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_dots_and_slashes() {
        let text = br#"{"tree_metadata": {
            "('transformer/layer_0', 'w')": {
                "key_metadata": [{"key": "transformer/layer_0", "key_type": 2}, {"key": "w", "key_type": 2}],
                "value_metadata": {"value_type": "jax.Array", "skip_deserialize": false}
            },
            "('c.d', '0')": {
                "key_metadata": [{"key": "c.d", "key_type": 2}, {"key": 0, "key_type": 1}],
                "value_metadata": {"value_type": "None", "skip_deserialize": true}
            }
        }, "store_array_data_equal_to_fill_value": true}"#;
        let tree = parse_metadata(text).unwrap();
        assert!(tree.complete);
        assert_eq!(tree.name("transformer/layer_0.w"), "transformer/layer_0/w");
        assert_eq!(tree.name("c.d.0"), "c.d/0");
        assert_eq!(tree.name("x.y"), "x/y");
        assert!(tree.names["transformer/layer_0.w"].required);
        assert!(!tree.names["c.d.0"].required);
    }
}
