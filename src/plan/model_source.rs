//! The model of a plan: a folder's, or a published geometry.

use std::path::PathBuf;

use super::error::{Error, Result};
use crate::checkpoint;
use crate::config::{GEOMETRIES, GemmaConfig};
use crate::dtype::DType;
use crate::engine::checkpoint_dtype;
use crate::model::{ModelSpec, Ops};
use crate::sharding::Mesh;
use crate::source::{fitted, open_checkpoint, open_config};

/// Where the model's geometry comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with config.json, and with weights or without.
    Folder(PathBuf),
    /// One of [`GEOMETRIES`].
    Named(String),
}

impl std::fmt::Display for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ModelSource::Folder(path) => write!(f, "{}", path.display()),
            ModelSource::Named(name) => f.write_str(name),
        }
    }
}

impl ModelSource {
    /// The model as `generate` would lower it for a device with these operations.
    ///
    /// The dtype is `dtype`, else the checkpoint's, else the one that config.json names, else
    /// bfloat16.
    ///
    /// # Errors
    /// An unknown name, a folder without a usable configuration, a checkpoint that cannot be read,
    /// a mesh that does not divide.
    pub fn spec(
        &self,
        dtype: Option<DType>,
        ops: impl Ops + 'static,
        mesh: Mesh,
    ) -> Result<ModelSpec> {
        let config = match self {
            ModelSource::Folder(path) => open_config(path)?.0,
            ModelSource::Named(name) => {
                GemmaConfig::named(name).ok_or_else(|| Error::UnknownGeometry {
                    name: name.chars().take(64).collect(),
                    known: GEOMETRIES.join(", "),
                })?
            }
        };
        let checkpoint = match self {
            ModelSource::Named(_) => None,
            ModelSource::Folder(path) => match open_checkpoint(path) {
                Ok(checkpoint) => Some(fitted(&checkpoint, &config)),
                // A plan needs no weights.
                Err(checkpoint::Error::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        let compute = match (dtype, &checkpoint) {
            (Some(dtype), _) => dtype,
            (None, Some(checkpoint)) => checkpoint_dtype(checkpoint, &config)?,
            (None, None) => config.torch_dtype().unwrap_or(DType::BF16),
        };
        let stored = |name: &str| {
            checkpoint
                .as_ref()
                .and_then(|checkpoint| checkpoint.get(name))
                .map_or(compute, |tensor| tensor.dtype())
        };
        Ok(ModelSpec::new(config, compute, ops, mesh, stored)?)
    }
}
