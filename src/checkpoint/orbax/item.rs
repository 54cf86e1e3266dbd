//! An item: the tree in one folder, in any of the forms that Orbax stores one in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OrbaxProblem;
use super::array::Array;
use super::folder::{Disk, Folder, join};
use super::ocdbt::{self, MANIFEST_FILE, Values};
use super::problem::{Fault, unreadable};
use super::store::Store;
use super::tree::{self, LEGACY_FILE, METADATA_FILE, Tree};
use super::zarr::{MAX_METADATA, Parsed, parse_zarr2, parse_zarr3};
use crate::checkpoint::{Error, Format, Result};

/// What the folders begin with that processes write to before they are merged.
pub(super) const PROCESS_PREFIX: &str = "ocdbt.process_";
/// An array's metadata in zarr 2 and 3.
const ZARR2_FILE: &str = ".zarray";
const ZARR3_FILE: &str = "zarr.json";
/// How deep arrays are in an item at most: each slash of a key is a folder.
const MAX_DEPTH: usize = 16;
/// The most folders that are looked into.
const MAX_FOLDERS: usize = 1 << 16;
/// The same where nothing says that the folder is of Orbax.
const MAX_UNSURE_FOLDERS: usize = 256;
/// What tells a tree's parameters from the rest of a training state.
const PARAMETERS: &str = "params/";

/// How an item is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One OCDBT database.
    Ocdbt,
    /// A database of each process.
    Processes,
    /// A folder an array.
    Folders,
    /// All in the one file that older versions have for the tree.
    Aggregate,
}

impl Form {
    /// The form of the item in a folder, if it is one.
    pub(super) fn of(dir: &Path) -> Option<Form> {
        let files = Disk(dir.to_path_buf());
        if dir.join(MANIFEST_FILE).is_file() {
            return Some(Form::Ocdbt);
        }
        if !processes(&files).is_empty() {
            return Some(Form::Processes);
        }
        let legacy = is_legacy_tree(dir);
        let (depth, folders) = match legacy || dir.join(METADATA_FILE).is_file() {
            true => (MAX_DEPTH, MAX_FOLDERS),
            false => (1, MAX_FOLDERS),
        };
        let has_arrays =
            array_folders(&files, depth, folders, 1).is_ok_and(|found| !found.is_empty());
        match (has_arrays, legacy) {
            (true, _) => Some(Form::Folders),
            (false, true) => Some(Form::Aggregate),
            (false, false) => None,
        }
    }

    /// The form of a folder that has arrays some folders deep.
    pub(super) fn with_deep_arrays(dir: &Path) -> Option<Form> {
        let files = Disk(dir.to_path_buf());
        let found = array_folders(&files, MAX_DEPTH, MAX_UNSURE_FOLDERS, 1).ok()?;
        (!found.is_empty()).then_some(Form::Folders)
    }
}

/// Whether a file `checkpoint` is Orbax's: a msgpack map. Other programs have a file of this name,
/// too.
fn is_legacy_tree(dir: &Path) -> bool {
    use std::io::Read;
    let mut first = [0];
    let read =
        std::fs::File::open(dir.join(LEGACY_FILE)).and_then(|mut f| f.read_exact(&mut first));
    read.is_ok() && matches!(first, [0x80..=0x8f | 0xde | 0xdf])
}

/// The folders of processes that have a database.
fn processes(files: &dyn Folder) -> Vec<String> {
    let children = files.children("").unwrap_or_default();
    children
        .into_iter()
        .filter(|child| child.is_folder && child.name.starts_with(PROCESS_PREFIX))
        .map(|child| child.name)
        .filter(|name| files.open(&join(name, MANIFEST_FILE)).is_ok())
        .collect()
}

/// The folders that have an array's metadata, by path, up to `enough` of them.
fn array_folders(
    files: &dyn Folder,
    depth: usize,
    most: usize,
    enough: usize,
) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), 0)];
    let mut seen = 0;
    while let Some((path, level)) = pending.pop() {
        seen += 1;
        if seen > most || found.len() == enough {
            break;
        }
        let children = files.children(&path)?;
        let is_metadata = |name: &str| name == ZARR2_FILE || name == ZARR3_FILE;
        let has_metadata = children
            .iter()
            .any(|c| !c.is_folder && is_metadata(&c.name));
        if has_metadata && !path.is_empty() {
            found.push(path.clone());
        }
        // A group of zarr 3 has metadata, and arrays below.
        if level < depth {
            for child in children.into_iter().filter(|child| child.is_folder).rev() {
                // Chunks of zarr 3, of which there may be many.
                if !(has_metadata && child.name == "c") {
                    pending.push((join(&path, &child.name), level + 1));
                }
            }
        }
    }
    Ok(found)
}

/// An opened item.
pub(super) struct Item {
    /// The manifest, or the folder.
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) files: Vec<PathBuf>,
    /// The arrays by their names in the tree.
    pub(super) arrays: Vec<(String, Array)>,
    /// The names of arrays of integers, which are not read.
    pub(super) left_out: Vec<String>,
}

/// Opens the item whose folder is `dir`.
pub(super) fn open(files: Arc<dyn Folder>, dir: &Path, form: Form) -> Result<Item> {
    let error = |fault: Fault| Error::Orbax {
        file: dir.join(fault.file),
        array: fault.array,
        problem: fault.problem,
    };
    let tree = tree::read(files.as_ref()).map_err(error)?;
    let values = match form {
        Form::Ocdbt => Some(ocdbt::read(&files, "").map_err(error)?),
        Form::Processes => Some(united(&files).map_err(error)?),
        Form::Folders | Form::Aggregate => None,
    };
    let (path, format) = match form {
        Form::Ocdbt => (dir.join(MANIFEST_FILE), Format::OrbaxOcdbt),
        Form::Processes => (dir.to_path_buf(), Format::OrbaxOcdbt),
        _ => (dir.to_path_buf(), Format::OrbaxFolders),
    };
    let data_files = match &values {
        None => vec![dir.to_path_buf()],
        Some(values) => {
            let mut names: Vec<&str> = values.values().map(|value| value.file.as_ref()).collect();
            names.sort_unstable();
            names.dedup();
            names.into_iter().map(|name| dir.join(name)).collect()
        }
    };
    let stored = stored_arrays(files.as_ref(), values.as_ref()).map_err(error)?;
    if stored.is_empty() {
        let problem = OrbaxProblem::Unfinished {
            why: "it has no arrays".to_owned(),
        };
        return Err(error(problem.of("")));
    }
    let store = Arc::new(Store::new(files, dir.to_path_buf(), values));
    let (arrays, left_out) = arrays(&store, stored, tree.unwrap_or_default()).map_err(error)?;
    Ok(Item {
        path,
        format,
        files: data_files,
        arrays,
        left_out,
    })
}

/// The databases of all processes as one. Only one of them has the arrays' metadata, and each has
/// some of the chunks.
fn united(files: &Arc<dyn Folder>) -> std::result::Result<Values, Fault> {
    let mut all = Values::new();
    for process in processes(files.as_ref()) {
        for (key, value) in ocdbt::read(files, &process)? {
            all.entry(key).or_insert(value);
        }
    }
    Ok(all)
}

/// The stored names of all arrays, and whether their metadata are of zarr 3.
fn stored_arrays(
    files: &dyn Folder,
    values: Option<&Values>,
) -> std::result::Result<BTreeMap<String, bool>, Fault> {
    let mut stored = BTreeMap::new();
    match values {
        Some(values) => {
            for key in values.keys() {
                let split = key.rsplit_once('/');
                match split {
                    Some((name, ZARR2_FILE)) => stored.insert(name.to_owned(), false),
                    Some((name, ZARR3_FILE)) => stored.insert(name.to_owned(), true),
                    _ => None,
                };
            }
        }
        None => {
            let folders = array_folders(files, MAX_DEPTH, MAX_FOLDERS, usize::MAX)
                .map_err(|source| unreadable(source).of(""))?;
            for folder in folders {
                let is_zarr3 = files.open(&join(&folder, ZARR2_FILE)).is_err();
                stored.insert(folder, is_zarr3);
            }
        }
    }
    Ok(stored)
}

/// Arrays by name, and the names of those that are left out.
type Arrays = (Vec<(String, Array)>, Vec<String>);

/// Opens the stored arrays that are parameters; the names of those of integers are given too.
fn arrays(
    store: &Arc<Store>,
    stored: BTreeMap<String, bool>,
    tree: Tree,
) -> std::result::Result<Arrays, Fault> {
    let mut named: Vec<(String, String, bool)> = stored
        .iter()
        .map(|(key, is_zarr3)| (tree.name(key), key.clone(), *is_zarr3))
        .collect();
    let is_state = named
        .iter()
        .any(|(name, _, _)| name.starts_with(PARAMETERS));
    let wanted = |name: &str| !is_state || name.starts_with(PARAMETERS);
    for (key, leaf) in &tree.names {
        if leaf.required && wanted(&leaf.name) && !stored.contains_key(key) {
            return Err(OrbaxProblem::MissingArray.of_array(tree.file, &leaf.name));
        }
    }
    named.retain(|(name, _, _)| wanted(name));
    let mut arrays = Vec::new();
    let mut left_out = Vec::new();
    for (name, key, is_zarr3) in named {
        let file = join(&key, if is_zarr3 { ZARR3_FILE } else { ZARR2_FILE });
        if name.contains(char::is_control) {
            let what = "its name has a control character".to_owned();
            let problem = OrbaxProblem::Metadata { what };
            return Err(problem.of_array("", &name));
        }
        let metadata = match metadata(store, &file, is_zarr3, &name)? {
            (None, _) => continue,
            (Some(Parsed::Array(metadata)), _) => *metadata,
            (Some(Parsed::OtherDType(dtype)), file) => {
                if !is_integer(&dtype) {
                    let problem = OrbaxProblem::Unsupported {
                        what: "dtype",
                        found: dtype,
                        known: "float32, float16, bfloat16",
                    };
                    return Err(problem.of_array(&file, &name));
                }
                left_out.push(name);
                continue;
            }
        };
        let array = Array::new(
            Arc::clone(store),
            key,
            name.clone(),
            metadata,
            tree.complete,
        );
        array.check_complete().map_err(|fault| *fault)?;
        arrays.push((name, array));
    }
    if arrays.is_empty() {
        return Err(OrbaxProblem::NoArrays.of(""));
    }
    Ok((arrays, left_out))
}

/// Reads an array's metadata, and returns the file that it is in.
fn metadata(
    store: &Store,
    key: &str,
    is_zarr3: bool,
    name: &str,
) -> std::result::Result<(Option<Parsed>, String), Fault> {
    let region = store
        .value(key)
        .map_err(|source| unreadable(source).of_array(key, name))?
        .ok_or_else(|| OrbaxProblem::MissingArray.of_array(key, name))?;
    let file = region.file.to_string();
    let text = region
        .bytes(MAX_METADATA)
        .map_err(|source| unreadable(source).of_array(&file, name))?;
    let parsed = match text {
        None => Err(OrbaxProblem::TooLarge {
            kind: "array's metadata",
            limit: MAX_METADATA,
        }),
        Some(text) if is_zarr3 => parse_zarr3(&text),
        Some(text) => parse_zarr2(&text).map(Some),
    };
    match parsed {
        Ok(parsed) => Ok((parsed, file)),
        Err(problem) => Err(problem.of_array(&file, name)),
    }
}

/// Whether a dtype of NumPy's or zarr's is one that no parameter has: of integers or truth values.
fn is_integer(dtype: &str) -> bool {
    let name = dtype.trim_start_matches(['<', '>', '|']);
    let numpy = dtype != name && name.starts_with(['i', 'u', 'b']);
    numpy
        || ["int", "uint", "bool"]
            .iter()
            .any(|kind| name.starts_with(kind))
}
