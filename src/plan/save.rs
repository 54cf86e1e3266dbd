//! Keeping what was compiled, for a machine that has the devices.

use std::path::{Path, PathBuf};

use super::compile::Target;
use super::error::{Error, Result};
use super::measure::{Measured, Measures};
use crate::executables::{self, NewExecutable};
use crate::model::ModelSpec;

/// Saves all programs in `folder` and returns the manifest's path.
///
/// # Errors
/// A program that does not fit, a folder that cannot be written to.
pub(super) fn save(
    folder: &Path,
    target: &Target<'_>,
    spec: &ModelSpec,
    measures: &Measures,
) -> Result<PathBuf> {
    let saved = measures
        .parts()
        .iter()
        .map(|part| match &part.measured {
            Measured::TooLarge(why) => Err(Error::NothingToSave {
                folder: folder.to_owned(),
                message: why.message.clone(),
            }),
            Measured::Fits(cost) => {
                let (module, options) = target.lower(spec, part.key)?;
                let hash = executables::program_hash(&module, &options)?;
                Ok(NewExecutable {
                    entry: part.key.manifest_entry(hash),
                    bytes: cost
                        .executable
                        .clone()
                        .ok_or_else(|| Error::NothingToSave {
                            folder: folder.to_owned(),
                            message: "libtpu gave no executable".into(),
                        })?,
                })
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let target = target.executables_target(spec.mesh)?;
    Ok(executables::save(folder, &target, saved)?)
}
