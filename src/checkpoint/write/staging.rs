//! A folder that appears under its name when it is complete.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::companions::COMPANIONS;
use super::{WriteError, companions};
use crate::dtype::DType;
use crate::leftovers::{self, Claim};
use crate::whole_file::{folder_of, sync_folder_of};

/// What the names of unfinished folders end with.
const PARTIAL: &str = ".partial";

/// A folder that is being filled beside its destination. Dropped before [`Staging::commit`], it is
/// removed.
pub struct Staging {
    folder: TempDir,
    claim: Claim,
    destination: PathBuf,
    force: bool,
}

impl Staging {
    /// Creates an empty folder beside `destination`.
    ///
    /// # Errors
    /// Where the destination exists, unless `force` is set and it is a folder with nothing in it
    /// but a checkpoint's files; and where no folder can be created.
    pub fn beside(destination: &Path, force: bool) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Write {
            file: destination.to_path_buf(),
            source,
        };
        check_replaceable(destination, force)?;
        let name = destination
            .file_name()
            .ok_or_else(|| failed(io::Error::other("not the name of a folder")))?;
        if !folder_of(destination).try_exists().map_err(failed)? {
            let folder = folder_of(destination).display();
            let message = format!("the folder {folder} does not exist");
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, message)));
        }
        let mut prefix = OsStr::new(".").to_os_string();
        prefix.push(name);
        prefix.push(".");
        // What runs that were killed have left.
        let begins = prefix.to_string_lossy().into_owned();
        leftovers::sweep(folder_of(destination), |name| {
            name.starts_with(&begins) && name.ends_with(PARTIAL)
        });
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(PARTIAL);
        let make = || builder.tempdir_in(folder_of(destination));
        let (folder, claim) = Claim::make(make, TempDir::path).map_err(failed)?;
        Ok(Staging {
            folder,
            claim,
            destination: destination.to_path_buf(),
            force,
        })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Copies the configuration and the tokenizer's files from `source`, and gives their names.
    /// Where a `dtype` is given, config.json names it in place of the one that it has.
    ///
    /// # Errors
    /// Where one cannot be read or written.
    pub fn copy_companions(
        &self,
        source: &Path,
        dtype: Option<DType>,
    ) -> Result<Vec<&'static str>, WriteError> {
        companions::copy(source, self.path(), dtype)
    }

    /// Gives the folder its name. A folder that had it is removed once the new one is in its place.
    ///
    /// # Errors
    /// Where the destination has been created meanwhile, or cannot be renamed to.
    pub fn commit(self) -> Result<(), WriteError> {
        let destination = &self.destination;
        let failed = |source| WriteError::Write {
            file: destination.clone(),
            source,
        };
        check_replaceable(destination, self.force)?;
        make_readable(self.folder.path()).map_err(failed)?;
        // Without force, what another process puts there from now on is not replaced either.
        let replaces = self.force && destination.try_exists().map_err(failed)?;
        // One step, so that whenever the process is killed, the destination is whole.
        let flags = match replaces {
            true => RenameFlags::EXCHANGE,
            false => RenameFlags::NOREPLACE,
        };
        let (claim, folder) = (&self.claim, self.folder.path());
        match claim.rename(|| renameat_with(CWD, folder, CWD, destination, flags)) {
            Ok(()) if replaces => {
                // The old folder has the temporary name now.
                let _ = self.folder.close();
                return sync_folder_of(destination).map_err(failed);
            }
            Ok(()) => {
                // It has been renamed, so that its guard has nothing to remove.
                let _ = self.folder.keep();
                return sync_folder_of(destination).map_err(failed);
            }
            // Some file systems do not have it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(Errno::EXIST) => {
                return Err(WriteError::Exists {
                    destination: destination.clone(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let replaced = match replaces {
            false => None,
            true => {
                let aside = tempfile::Builder::new()
                    .prefix(".replaced.")
                    .tempdir_in(folder_of(destination))
                    .map_err(failed)?;
                fs::rename(destination, aside.path().join("checkpoint")).map_err(failed)?;
                Some(aside)
            }
        };
        if let Err(error) = claim.rename(|| fs::rename(folder, destination)) {
            if let Some(aside) = replaced {
                // Should this fail too, the old folder must not be removed with the one that it was
                // put into.
                let kept = aside.keep();
                fs::rename(kept.join("checkpoint"), destination).map_err(failed)?;
                fs::remove_dir(kept).map_err(failed)?;
            }
            return Err(failed(error));
        }
        // It has been renamed, so that its guard has nothing to remove.
        let _ = self.folder.keep();
        sync_folder_of(destination).map_err(failed)
    }
}

/// Temporary folders are for their owner alone; the user's gets the mode of any new folder.
fn make_readable(folder: &Path) -> io::Result<()> {
    let probe = folder.join(".mode");
    fs::create_dir(&probe)?;
    let mode = probe.metadata()?.permissions();
    fs::remove_dir(&probe)?;
    fs::set_permissions(folder, mode)
}

/// Whether the destination may be written: it does not exist, or it is to be replaced and has
/// nothing in it but a checkpoint.
fn check_replaceable(destination: &Path, force: bool) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write {
        file: destination.to_path_buf(),
        source,
    };
    match destination.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(_) if !force => {
            return Err(WriteError::Exists {
                destination: destination.to_path_buf(),
            });
        }
        Ok(found) if !found.is_dir() => return Err(failed(io::Error::other("not a folder"))),
        Ok(_) => {}
    }
    for entry in fs::read_dir(destination).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_file = !entry.file_type().map_err(failed)?.is_dir();
        if !(is_file && is_part_of_a_checkpoint(&name.to_string_lossy())) {
            return Err(WriteError::NotACheckpoint {
                destination: destination.to_path_buf(),
                other: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn is_part_of_a_checkpoint(name: &str) -> bool {
    let endings = [
        ".msgpack",
        ".msgpack.index.json",
        ".npz",
        ".safetensors",
        ".safetensors.index.json",
    ];
    COMPANIONS.contains(&name) || endings.iter().any(|ending| name.ends_with(ending))
}
