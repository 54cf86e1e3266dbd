//! The configuration and the tokenizer of a checkpoint that comes without them, as Orbax
//! checkpoints do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::checkpoint::{fitted, open_checkpoint};
use crate::checkpoint::Checkpoint;
use crate::config::{ConfigError, GEOMETRIES, GemmaConfig};
use crate::input_file;
use crate::model::parameters;
use crate::tokenizer::{JSON_FILE, MODEL_FILE};

/// How many folders above a checkpoint's a tokenizer is looked for in: a run has steps, and a step
/// has items.
const LEVELS_ABOVE: usize = 2;

/// The configuration in a folder. Without a config.json it is that of the published model whose
/// parameters have the names and shapes of the folder's, and its name is given too.
///
/// # Errors
/// A configuration that cannot be used; none, and parameters of no published model.
pub fn open_config(folder: &Path) -> Result<(GemmaConfig, Option<&'static str>), ConfigError> {
    match GemmaConfig::from_dir(folder) {
        Ok(config) => Ok((config, None)),
        Err(error) if is_absent(&error) => {
            let checkpoint = open_checkpoint(folder).ok();
            match checkpoint.as_ref().and_then(recognised) {
                Some((config, name)) => Ok((config, Some(name))),
                None => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn is_absent(error: &ConfigError) -> bool {
    match error {
        ConfigError::Read { source, .. } => source.kind() == ErrorKind::NotFound,
        _ => false,
    }
}

/// The published model that a checkpoint fits, by names and shapes.
fn recognised(checkpoint: &Checkpoint) -> Option<(GemmaConfig, &'static str)> {
    GEOMETRIES.into_iter().find_map(|name| {
        let config = GemmaConfig::named(name)?;
        let expected: Vec<_> = parameters(&config)
            .into_iter()
            .map(|parameter| {
                let shape = parameter.shape();
                (parameter.name, shape)
            })
            .collect();
        let fits = fitted(checkpoint, &config)
            .compare(&expected)
            .is_ok_and(|found| found.fits());
        fits.then_some((config, name))
    })
}

/// The folder with the tokenizer of the model in `folder`: that folder, or, where it has none and
/// no config.json, the nearest one above that has.
pub(crate) fn tokenizer_folder(folder: &Path) -> PathBuf {
    let has = |folder: &Path, name: &str| {
        // A link to nothing is reported when the file is read.
        !matches!(input_file::exists(&folder.join(name)), Ok(false))
    };
    let has_tokenizer = |folder: &&Path| has(folder, JSON_FILE) || has(folder, MODEL_FILE);
    if has_tokenizer(&folder) || has(folder, crate::config::CONFIG_FILE) {
        return folder.to_path_buf();
    }
    let Ok(whole) = folder.canonicalize() else {
        return folder.to_path_buf();
    };
    let mut above = whole.ancestors().skip(1).take(LEVELS_ABOVE);
    match above.find(has_tokenizer) {
        Some(found) => found.to_path_buf(),
        None => folder.to_path_buf(),
    }
}
