//! Compiled programs in a folder of the user: compiled on one machine, and loaded on another
//! instead of being compiled there.
//!
//! The folder has one file per program and a manifest that describes them. Nothing is loaded unless
//! the manifest matches the plugin's build, the devices and the exact program that would be
//! compiled otherwise, and the file is complete. That guards against mistakes; whoever can write to
//! the folder can run code in the process that loads from it.

mod error;
mod manifest;
mod saved;
mod write;

pub use error::{Error, Result};
pub use manifest::{MANIFEST_FILE, Manifest, SavedProgram, Target};
pub use saved::SavedExecutables;
pub use write::{NewExecutable, save};

use sha2::{Digest, Sha256};

use crate::compile_cache::Hasher;
use crate::pjrt::{self, CompileOptions};

/// The hash of a program and of how it is compiled: the serialized module, and the options with its
/// layouts.
///
/// # Errors
/// Options that cannot be encoded.
pub fn program_hash(module: &hlo::Module, options: &CompileOptions) -> pjrt::Result<String> {
    let mut hasher = Hasher::default();
    hasher.part(&module.serialize());
    hasher.part(&options.with_layouts_of(module).to_bytes()?);
    Ok(hexadecimal(&hasher.finish()))
}

fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
