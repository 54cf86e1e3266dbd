//! What can be wrong with a plan.

use std::path::PathBuf;

use crate::sharding::{Mesh, SplitError};
use crate::{checkpoint, config, engine, pjrt, plugin};

/// Why nothing could be planned. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An unknown topology.
    #[error("topology {name}: not known; known are {known}")]
    UnknownTopology {
        /// What was asked for.
        name: String,
        /// All that are known, comma separated.
        known: String,
    },
    /// An unknown geometry.
    #[error("geometry {name}: not known; known are {known}")]
    UnknownGeometry {
        /// What was asked for.
        name: String,
        /// All that are known, comma separated.
        known: String,
    },
    /// A mesh of more devices than the slice has.
    #[error("mesh {mesh}: {} devices, and {topology} has {devices}", mesh.devices())]
    MeshTooLarge {
        /// The mesh.
        mesh: Mesh,
        /// The slice.
        topology: &'static str,
        /// Its devices.
        devices: usize,
    },
    /// An argument whose value cannot be used.
    #[error("{argument}: {problem}")]
    Argument {
        /// The name of the field of [`Request`](super::Request).
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The model cannot be split over the mesh.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The engine cannot say how the model would run.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// libtpu is not there.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The compiler failed, other than for want of memory.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// The model could not be lowered.
    #[error("cannot lower the model: {0}")]
    Lowering(#[from] hlo::Error),
    /// The compiler's account of its work cannot be read.
    #[error("the optimized program '{program}' cannot be read: {problem}")]
    Optimized {
        /// The program.
        program: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Programs that do not fit cannot be saved.
    #[error("save {}: nothing is saved: {message}", folder.display())]
    NothingToSave {
        /// The folder.
        folder: PathBuf,
        /// What the compiler said.
        message: String,
    },
    /// The executables cannot be saved.
    #[error(transparent)]
    Executables(#[from] crate::executables::Error),
}

impl Error {
    /// The argument of the request that cannot be used, with which the message begins; none where
    /// the failure is another.
    pub fn argument(&self) -> Option<&'static str> {
        match self {
            Error::UnknownTopology { .. } => Some("topology"),
            Error::UnknownGeometry { .. } => Some("geometry"),
            Error::MeshTooLarge { .. } => Some("mesh"),
            Error::Argument { argument, .. } => Some(argument),
            Error::NothingToSave { .. } => Some("save"),
            _ => None,
        }
    }
}

/// The result of planning.
pub type Result<T> = std::result::Result<T, Error>;
