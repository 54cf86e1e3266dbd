//! Keeping what was compiled, for a machine that has the devices.

use std::path::{Path, PathBuf};

use super::compile::Target;
use super::error::{Error, Result};
use super::measure::Measured;
use crate::engine::{BatchPrograms, ProgramKey};
use crate::executables::{self, NewExecutable};
use crate::model::ModelSpec;

/// Saves both programs in `folder` and returns the manifest's path.
///
/// # Errors
/// A program that does not fit, a folder that cannot be written to.
pub(super) fn save(
    folder: &Path,
    target: &Target,
    spec: &ModelSpec,
    programs: &BatchPrograms,
    [prefill, decode]: [&Measured; 2],
) -> Result<PathBuf> {
    let both = [
        (
            "the prefill",
            ProgramKey::Prefill(programs.prefill),
            prefill,
        ),
        (
            "the decode step",
            ProgramKey::Decode(programs.decode),
            decode,
        ),
    ];
    let mut saved = Vec::new();
    for (name, key, measured) in both {
        let cost = match measured {
            Measured::Fits(cost) => cost,
            Measured::TooLarge(why) => {
                return Err(Error::NothingToSave {
                    folder: folder.to_owned(),
                    program: name,
                    message: why.message.clone(),
                });
            }
        };
        let (module, options) = target.lower(spec, key)?;
        saved.push(NewExecutable {
            entry: key.manifest_entry(executables::program_hash(&module, &options)?),
            bytes: cost.program.serialize()?,
        });
    }
    let target = target.executables_target(spec.geometry.mesh)?;
    Ok(executables::save(folder, &target, saved)?)
}
