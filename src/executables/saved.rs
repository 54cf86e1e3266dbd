//! Loading saved executables.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::manifest::{MANIFEST_FILE, Manifest, SavedProgram, Target};
use super::{program_hash, sha256};
use crate::pjrt::{self, CheckedExecutable, Client, CompileOptions, Executable};
use crate::trusted;

/// A folder of executables whose manifest matches the devices that are to run them.
#[derive(Clone, Debug)]
pub struct SavedExecutables {
    folder: PathBuf,
    manifest: Manifest,
}

impl SavedExecutables {
    /// Opens a folder for the devices that `here` describes.
    ///
    /// # Errors
    /// A missing or unreadable manifest, and executables for something else.
    pub fn open(folder: &Path, here: &Target) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let manifest = Manifest::read(&path)?;
        manifest.target.check(&path, here)?;
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
        })
    }

    /// Loads the executable of `module`. `wanted` gives its name and shapes; its other fields are
    /// ignored.
    ///
    /// # Errors
    /// No executable of these shapes, one of another program, a file that is damaged or that the
    /// plugin refuses.
    pub fn load(
        &self,
        client: &Client,
        wanted: &SavedProgram,
        module: &hlo::Module,
        options: &CompileOptions,
    ) -> Result<Executable> {
        let manifest = self.folder.join(MANIFEST_FILE);
        let expected = program_hash(module, options)?;
        let mut same_shapes = self
            .manifest
            .executables
            .iter()
            .filter(|entry| entry.program == wanted.program && entry.shapes == wanted.shapes)
            .peekable();
        let Some(first) = same_shapes.peek().copied() else {
            let saved: Vec<_> = self
                .manifest
                .executables
                .iter()
                .map(SavedProgram::describe)
                .collect();
            return Err(Error::Missing {
                path: manifest,
                program: wanted.describe(),
                saved: saved.join(", "),
            });
        };
        let Some(entry) = same_shapes.find(|entry| entry.program_hash == expected) else {
            let start = |hash: &str| hash.chars().take(12).collect();
            return Err(Error::OtherProgram {
                path: manifest,
                program: wanted.describe(),
                saved: start(&first.program_hash),
                expected: start(&expected),
            });
        };
        let path = self.folder.join(&entry.file);
        let mut bytes = Vec::new();
        // One byte too many is enough to change the hash.
        let mut file = trusted::open(&path)?.take(entry.bytes.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let actual = sha256(&bytes);
        if actual != entry.sha256 {
            return Err(Error::Damaged {
                path,
                expected: entry.sha256.clone(),
                actual,
            });
        }
        load_checked(client, &bytes).map_err(|source| Error::Plugin { path, source })
    }
}

/// Loads a file that matches the manifest. The folder is trusted: the user has named it as one of
/// executables to run.
fn load_checked(client: &Client, bytes: &[u8]) -> pjrt::Result<Executable> {
    let plugin = client.plugin().fingerprint()?;
    client.load_checked(&CheckedExecutable::from_trusted_folder(&plugin, bytes)?)
}
