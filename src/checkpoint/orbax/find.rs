//! Which folder has the tree: a checkpoint is one tree or several items, and a training run has a
//! checkpoint a step.

use std::path::{Path, PathBuf};

use super::OrbaxProblem;
use super::item::Form;
use super::tree::METADATA_FILE;
use crate::checkpoint::{Error, Result};

/// What the name of a folder has while its save is going on.
const UNFINISHED: &str = ".orbax-checkpoint-tmp";
/// The metadata of a checkpoint as a whole.
const CHECKPOINT_METADATA: &str = "_CHECKPOINT_METADATA";
/// The names of items that have a model's parameters, the preferred one first.
const PREFERRED: [&str; 5] = ["params", "default", "items", "state", "model"];
/// What the number of a step may follow.
const STEP_PREFIXES: [&str; 4] = ["", "step_", "checkpoint_", "ckpt_"];
/// A run, a step, an item.
const LEVELS: usize = 3;

/// The folder of the tree in `dir`, or below it; nothing where there is nothing of Orbax.
pub(super) fn find(dir: &Path) -> Result<Option<PathBuf>> {
    let found = in_folder(dir, 0)?;
    // Arrays in folders of their own, several deep, without any file that says whose they
    // are.
    Ok(found.or_else(|| Form::with_deep_arrays(dir).map(|_| dir.to_path_buf())))
}

fn in_folder(dir: &Path, level: usize) -> Result<Option<PathBuf>> {
    if name(dir).contains(UNFINISHED) {
        return Err(unfinished(dir, "its folder's name says so"));
    }
    if Form::of(dir).is_some() {
        return Ok(Some(dir.to_path_buf()));
    }
    if level == LEVELS {
        return Ok(None);
    }
    let folders = folders(dir)?;
    let (halves, folders): (Vec<PathBuf>, Vec<PathBuf>) = folders
        .into_iter()
        .partition(|folder| name(folder).contains(UNFINISHED));

    // An item's own folders have no tree below them, and other folders no more than any.
    let mut found = Vec::new();
    let mut failed = None;
    for folder in folders {
        match in_folder(&folder, level + 1) {
            Ok(Some(item)) => found.push((folder, item)),
            Ok(None) => {}
            Err(error) if is_unfinished(&error) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(item) = choose(dir, found, halves.last())? {
        return Ok(Some(item));
    }
    if let Some(half) = halves.last() {
        return Err(unfinished(half, "its folder's name says so"));
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let marks = [METADATA_FILE, CHECKPOINT_METADATA, "_sharding"];
    if marks.iter().any(|mark| dir.join(mark).is_file()) {
        return Err(unfinished(dir, "it has neither a manifest nor arrays"));
    }
    Ok(None)
}

/// Chooses among the folders in `dir` that have a tree, each given with the folder of the tree.
fn choose(
    dir: &Path,
    mut found: Vec<(PathBuf, PathBuf)>,
    unfinished: Option<&PathBuf>,
) -> Result<Option<PathBuf>> {
    let left_out = unfinished.map_or(String::new(), |half| {
        format!("; {} is unfinished and left out", name(half))
    });
    let preferred = PREFERRED.iter().find_map(|wanted| {
        let named = |(folder, _): &(PathBuf, PathBuf)| name(folder) == *wanted;
        found.iter().position(named)
    });
    let newest = (0..found.len())
        .filter_map(|at| Some((step(&name(&found[at].0))?, at)))
        .max()
        .map(|(_, at)| at);
    let chosen = match (found.len(), preferred, newest) {
        (0, _, _) => return Ok(None),
        (1, _, _) => {
            if !left_out.is_empty() {
                let dir = dir.display();
                tracing::warn!("{dir}: {} is read{left_out}", name(&found[0].0));
            }
            0
        }
        (_, Some(at), _) => at,
        (count, None, Some(at)) => {
            tracing::warn!(
                "{}: of {count} checkpoints the newest is read, {}{left_out}",
                dir.display(),
                name(&found[at].0)
            );
            at
        }
        _ => {
            let names: Vec<_> = found.iter().map(|(folder, _)| name(folder)).collect();
            return Err(Error::Orbax {
                file: dir.to_path_buf(),
                array: String::new(),
                problem: OrbaxProblem::SeveralItems {
                    found: names.join(", "),
                },
            });
        }
    };
    Ok(Some(found.swap_remove(chosen).1))
}

fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().escape_debug().to_string()
}

/// The number of a step, from its folder's name.
fn step(name: &str) -> Option<u64> {
    STEP_PREFIXES.iter().find_map(|prefix| {
        let digits = name.strip_prefix(prefix)?;
        let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    })
}

/// The folders in a folder, by name.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::Open {
        file: dir.to_path_buf(),
        source,
    };
    let mut folders = Vec::new();
    for entry in dir.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && !name(&path).starts_with('.') {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn unfinished(dir: &Path, why: &str) -> Error {
    Error::Orbax {
        file: dir.to_path_buf(),
        array: String::new(),
        problem: OrbaxProblem::Unfinished {
            why: why.to_owned(),
        },
    }
}

fn is_unfinished(error: &Error) -> bool {
    matches!(
        error,
        Error::Orbax {
            problem: OrbaxProblem::Unfinished { .. },
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbers_with_the_prefixes_that_programs_give_them() {
        let names = [
            "0",
            "000010",
            "step_10",
            "checkpoint_7",
            "layer_3",
            "step_",
            "",
            "1e3",
        ];
        let steps = names.map(step);
        let expected = [Some(0), Some(10), Some(10), Some(7), None, None, None, None];
        assert_eq!(steps, expected);
    }
}
