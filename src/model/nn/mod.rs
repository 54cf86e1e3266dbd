//! The modules that a Gemma is made of. Each declares its parameters where it computes with them.

mod attention;
mod block;
mod cache;
mod embedding;
mod gemma;
mod linear;
mod mlp;
mod norm;
mod rope;

pub use attention::{CachedAttention, Heads, Place, causal_mask, is_token, mask_bias};
pub use block::{Kept, Tokens};
pub use cache::{LayerCache, fill_cache, in_compute_dtype, update_cache, update_row, update_rows};
pub use gemma::Gemma;
pub use rope::{RopeTables, Rotary, Rotation};
