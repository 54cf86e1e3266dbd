//! Gemma's own tokenizer, of 256,000 pieces, against what Python's `tokenizers` makes of the strings in tests/data/tokenizer.
//!
//! The tokenizer's files are fetched by tools/tokenizer/fetch, once; where that cannot be, these tests say so and hold nothing.

#[path = "../common/mod.rs"]
mod common;

mod beyond;
mod published;
