//! Saving compiled programs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::manifest::{MANIFEST_FILE, Manifest, SavedProgram, Target};
use super::sha256;
use crate::whole_file::{Mode, WholeFile};

/// An executable to save.
pub struct NewExecutable {
    /// Its entry in the manifest; the file's name, hash and size are filled in.
    pub entry: SavedProgram,
    /// What [`CompiledExecutable::serialize`](crate::pjrt::CompiledExecutable::serialize) gave.
    pub bytes: Vec<u8>,
}

/// Saves executables in `folder`, which is created if it is missing, and returns the manifest's
/// path.
///
/// An existing manifest keeps its entries if it is for the same target; otherwise it is replaced.
///
/// # Errors
/// A folder that cannot be written to.
pub fn save(folder: &Path, target: &Target, executables: Vec<NewExecutable>) -> Result<PathBuf> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let path = folder.join(MANIFEST_FILE);
    let mut manifest = Manifest::read(&path)
        .ok()
        .filter(|manifest| manifest.target == *target)
        .unwrap_or_else(|| Manifest::new(target.clone()));
    for NewExecutable { entry, bytes } in executables {
        let hash: String = entry.program_hash.chars().take(16).collect();
        let file = format!("{}-{hash}.executable", entry.program);
        write(folder, &file, &bytes).map_err(failed(&folder.join(&file)))?;
        manifest.executables.retain(|old| old.file != file);
        manifest.executables.push(SavedProgram {
            sha256: sha256(&bytes),
            bytes: bytes.len() as u64,
            file,
            ..entry
        });
    }
    // Last, so that it never names a missing file.
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Manifest {
        path: path.clone(),
        problem: error.to_string(),
    })?;
    write(folder, MANIFEST_FILE, &text).map_err(failed(&path))?;
    Ok(path)
}

/// Writes a file atomically.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    // Others may read it: these files are meant to be copied to another machine.
    let mut file = WholeFile::create(&folder.join(name), Mode::Exactly(0o644), true)?;
    file.write_all(bytes)?;
    file.commit()
}
