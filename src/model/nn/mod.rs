//! The modules that a Gemma is made of. Each declares its parameters where it computes with them.

mod attention;
mod block;
mod cache;
mod embedding;
mod experts;
mod gemma;
mod linear;
mod mask;
mod mlp;
mod norm;
mod per_layer;
mod ring;
mod rope;

pub use attention::{CachedAttention, Heads, Place};
pub use block::{Block, Kept, Stream, Tokens};
pub use cache::{LayerCache, in_compute_dtype, update_cache, update_row, update_rows};
pub use gemma::Gemma;
pub use mask::{Masks, causal_mask, is_token, within};
pub use ring::{Ring, fill_cache};
pub use rope::{RopeTables, Rotary, Rotation};
