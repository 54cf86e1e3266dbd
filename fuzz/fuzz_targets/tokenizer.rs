#![no_main]

use std::path::Path;

use gemma_xla::tokenizer::Tokenizer;
use gemma_xla_fuzz::{FILE, let_panics_be_caught, one_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let_panics_be_caught();
    match Tokenizer::from_json(Path::new(FILE), bytes, Some(2)) {
        Ok(tokenizer) => {
            for text in ["", "It is a truth", "a\u{2581}b  \u{1f600}\u{5d0}"] {
                if let Ok(ids) = tokenizer.encode(text) {
                    let _ = tokenizer.decode(&ids);
                }
            }
        }
        Err(error) => one_line(&error),
    }
});
