//! By which names and in which layouts checkpoints store a parameter: words that the model's
//! declarations and the readers of checkpoints share.

mod pattern;
mod table;
mod words;

pub(crate) use pattern::filled;
pub use table::NameTable;
pub use words::{Naming, StoredAs};
