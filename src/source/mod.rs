//! Opening a model, and what is there once it is loaded: the library's door.

mod assumed;
mod checkpoint;
mod conversation;
mod loaded;
mod model;
mod reply;

pub use assumed::open_config;
#[cfg(feature = "cli")]
pub(crate) use assumed::tokenizer_folder;
pub use checkpoint::{fitted, open_checkpoint};
pub use conversation::{Conversation, ConversationOptions, Turn};
pub use loaded::{Completion, LoadedModel, Origin};
pub use model::Model;
pub use reply::{Added, ReplyText};
