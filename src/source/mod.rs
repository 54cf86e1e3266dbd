//! Opening a model, and what is there once it is loaded: the library's door.

mod assumed;
mod conversation;
mod loaded;
mod model;
mod reply;

pub use assumed::open_config;
pub(crate) use assumed::tokenizer_folder;
pub use conversation::{Conversation, ConversationOptions, Turn};
pub use loaded::{Completion, LoadedModel};
pub use model::{Model, fitted, open_checkpoint};
pub use reply::{Added, ReplyText};
