#![no_main]

use std::path::Path;

use gemma_xla::tokenizer::{BoundaryTokens, Tokenizer};
use gemma_xla_fuzz::{FILE, leave_caught_panics, one_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    leave_caught_panics();
    let tokens = BoundaryTokens {
        post_processor: false,
        bos: None,
        eos: None,
    };
    match Tokenizer::from_model(Path::new(FILE), bytes, &tokens) {
        Ok(tokenizer) => {
            for text in ["", "It is a truth", "a\u{2581}b  \u{1f600}\u{5d0}<bos>"] {
                if let Ok(ids) = tokenizer.encode(text) {
                    let decoded = tokenizer.decode(&ids).expect("ids that it gave");
                    assert!(decoded.len() <= ids.len() * 512);
                    let mut stream = tokenizer.stream(&[]);
                    let parts: Vec<String> = ids
                        .iter()
                        .map(|&id| stream.push(&[id]).expect("ids that it gave"))
                        .collect();
                    let rest = stream.finish().expect("ids that it gave");
                    assert_eq!(parts.concat() + &rest, decoded);
                }
            }
        }
        Err(error) => one_line(&error),
    }
});
