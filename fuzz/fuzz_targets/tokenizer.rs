#![no_main]

use std::path::Path;

use gemma_xla::tokenizer::{BoundaryTokens, Tokenizer};
use gemma_xla_fuzz::{FILE, leave_caught_panics, one_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    leave_caught_panics();
    let tokens = BoundaryTokens {
        post_processor: true,
        ..BoundaryTokens::default()
    };
    match Tokenizer::from_json(Path::new(FILE), bytes, &tokens) {
        Ok(tokenizer) => {
            for text in ["", "It is a truth", "a\u{2581}b  \u{1f600}\u{5d0}"] {
                match tokenizer.encode(text) {
                    Ok(ids) => {
                        let whole = tokenizer.decode(&ids);
                        if let Err(error) = &whole {
                            one_line(error);
                        }
                        let mut stream = tokenizer.stream(&[]);
                        let parts: Result<Vec<String>, _> =
                            ids.iter().map(|&id| stream.push(&[id])).collect();
                        if let (Ok(whole), Ok(parts), Ok(rest)) = (whole, parts, stream.finish()) {
                            assert_eq!(parts.concat() + &rest, whole);
                        }
                    }
                    Err(error) => one_line(&error),
                }
            }
        }
        Err(error) => one_line(&error),
    }
});
