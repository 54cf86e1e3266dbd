#![no_main]

use std::path::Path;

use gemma_xla::tokenizer::Tokenizer;
use gemma_xla_fuzz::{FILE, one_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match Tokenizer::from_json(Path::new(FILE), bytes, Some(2)) {
    Ok(tokenizer) => {
        for text in ["", "It is a truth", "a\u{2581}b  \u{1f600}\u{5d0}"] {
            match tokenizer.encode(text) {
                Ok(ids) => {
                    if let Err(error) = tokenizer.decode(&ids) {
                        one_line(&error);
                    }
                    assert!(tokenizer.settled(&ids).len() <= ids.len());
                }
                Err(error) => one_line(&error),
            }
        }
    }
    Err(error) => one_line(&error),
});
