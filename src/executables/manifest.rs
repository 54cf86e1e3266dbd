//! The manifest of a folder of executables.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::hexadecimal;
use crate::input_file;
use crate::pjrt::{self, Plugin};
use crate::sharding::Mesh;

/// The manifest's name in the folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The most bytes of a manifest.
const MAX_MANIFEST: u64 = 1 << 24;
/// Changed whenever an older manifest must not be read.
const FORMAT: &str = "gemma-xla executables 1";

/// The contents of the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    /// What all of its executables were compiled for.
    pub target: Target,
    /// The executables.
    pub executables: Vec<SavedProgram>,
}

/// What executables are compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// SHA-256 of the plugin's file.
    pub plugin_sha256: String,
    /// The platform, such as `tpu`.
    pub platform: String,
    /// The kind of its devices, such as `TPU v5 lite`.
    pub device_kind: String,
    /// The topology, where it was compiled for one by name.
    pub topology: Option<String>,
    /// The mesh, as `--mesh` takes it.
    pub mesh: String,
}

/// One executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProgram {
    /// What it does: `prefill` or `decode`.
    pub program: String,
    /// Its shapes on a device, by name.
    pub shapes: std::collections::BTreeMap<String, usize>,
    /// Its [`program_hash`](super::program_hash).
    pub program_hash: String,
    /// The file's name in the folder.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Target {
    /// What programs for these devices of the plugin are compiled for.
    ///
    /// # Errors
    /// A plugin's file that can no longer be read.
    pub fn new(
        plugin: &Plugin,
        platform: &str,
        device_kind: &str,
        topology: Option<&str>,
        mesh: Mesh,
    ) -> pjrt::Result<Self> {
        Ok(Self {
            plugin_sha256: hexadecimal(&plugin.fingerprint()?),
            platform: platform.to_owned(),
            device_kind: device_kind.to_owned(),
            topology: topology.map(str::to_owned),
            mesh: mesh.to_string(),
        })
    }

    /// Checks that what was compiled for this target runs on `here`.
    pub(super) fn check(&self, path: &Path, here: &Self) -> Result<()> {
        for (what, saved, here) in [
            ("platform", &self.platform, &here.platform),
            ("devices of kind", &self.device_kind, &here.device_kind),
            (
                "another build of the plugin, with SHA-256",
                &self.plugin_sha256,
                &here.plugin_sha256,
            ),
            ("mesh", &self.mesh, &here.mesh),
        ] {
            if saved != here {
                return Err(Error::Target {
                    path: path.to_owned(),
                    what,
                    saved: saved.clone(),
                    here: here.clone(),
                });
            }
        }
        Ok(())
    }
}

impl SavedProgram {
    /// The program and its shapes, for messages: `decode (rows 8, cache 1024, chunk 32)`.
    pub fn describe(&self) -> String {
        let shapes: Vec<_> = self
            .shapes
            .iter()
            .map(|(name, size)| format!("{name} {size}"))
            .collect();
        format!("{} ({})", self.program, shapes.join(", "))
    }
}

impl Manifest {
    pub(super) fn new(target: Target) -> Self {
        Self {
            format: FORMAT.to_owned(),
            target,
            executables: Vec::new(),
        }
    }

    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// A file that cannot be read or is not a manifest.
    pub fn read(path: &Path) -> Result<Self> {
        let content = input_file::read(path, MAX_MANIFEST).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problem: String| Error::Manifest {
            path: path.to_owned(),
            problem,
        };
        let content = content.ok_or_else(|| wrong(format!("larger than {MAX_MANIFEST} bytes")))?;
        let manifest: Self = serde_json::from_slice(&content).map_err(|e| wrong(e.to_string()))?;
        if manifest.format != FORMAT {
            let found: String = manifest.format.chars().take(64).collect();
            return Err(wrong(format!("its format is '{found}', not '{FORMAT}'")));
        }
        for entry in &manifest.executables {
            // The name is joined to the folder, and must not leave it.
            let mut parts = Path::new(&entry.file).components();
            let plain = matches!(parts.next(), Some(std::path::Component::Normal(_)));
            if !plain || parts.next().is_some() {
                let file: String = entry.file.chars().take(64).collect();
                return Err(wrong(format!("'{file}' is not a file name in its folder")));
            }
        }
        Ok(manifest)
    }
}
