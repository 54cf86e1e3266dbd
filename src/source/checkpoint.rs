//! The weights of a model, whatever their form and names.

use std::path::Path;

use crate::checkpoint::{Checkpoint, Result};
use crate::config::GemmaConfig;
use crate::model::{name_tables, unused_parameters};

/// Opens the weights in a folder, or those in a file, by Flax's names and in Flax's layouts,
/// whatever they are stored by.
///
/// # Errors
/// As [`Checkpoint::open`] and [`Checkpoint::canonical`].
pub fn open_checkpoint(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path)?.canonical(&name_tables())
}

/// The checkpoint without what a model of this configuration has no use for: rows that pad the
/// embedding, and keys and values of layers that share the cache of another.
#[must_use]
pub fn fitted(checkpoint: &Checkpoint, config: &GemmaConfig) -> Checkpoint {
    let checkpoint = checkpoint.for_vocabulary(config.vocab_size());
    checkpoint.without(&unused_parameters(config))
}
