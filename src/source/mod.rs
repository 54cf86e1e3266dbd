//! Opening a model, and what is there once it is loaded: the library's door.

mod assumed;
mod checkpoint;
mod loaded;
mod model;

pub use assumed::open_config;
#[cfg(feature = "cli")]
pub(crate) use assumed::tokenizer_folder;
pub use checkpoint::{fitted, open_checkpoint};
pub use loaded::{Completion, LoadedModel};
pub use model::Model;
