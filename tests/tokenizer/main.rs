//! Gemma's own tokenizer, of 256,000 pieces, against what Python's `tokenizers` makes of the
//! strings in tests/data/tokenizer.
//!
//! The tokenizer's files are fetched by tools/tokenizer/fetch, once. Where they cannot be fetched,
//! the tests say so and check nothing; with `GEMMA_XLA_TESTS=all`, which tools/test sets, they
//! fail.

#[path = "../common/mod.rs"]
mod common;

mod beyond;
mod published;
