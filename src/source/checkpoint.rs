//! The weights of a model, whatever their form and names.

use std::path::Path;

use crate::checkpoint::{Checkpoint, Result};
use crate::model::name_tables;

/// Opens the weights in a folder, or those in a file, by Flax's names and in Flax's layouts,
/// whatever they are stored by.
///
/// # Errors
/// As [`Checkpoint::open`] and [`Checkpoint::canonical`].
pub fn open_checkpoint(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path)?.canonical(&name_tables())
}
