//! Opening a model, and what is there once it is loaded: the library's door.

mod loaded;
mod model;

pub use loaded::{Completion, LoadedModel};
pub use model::{Model, fitted, open_checkpoint};
