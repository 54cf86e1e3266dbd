#![no_main]

use std::path::Path;

use gemma_xla::config::GemmaConfig;
use gemma_xla_fuzz::{FILE, one_line};
use libfuzzer_sys::fuzz_target;

/// Parameters of more layers than this are not listed.
const MAX_LAYERS: usize = 16;

fuzz_target!(|text: &str| {
    let file = Path::new(FILE);
    match GemmaConfig::from_json(file, text) {
        Ok(mut config) => {
            assert!(config.num_attention_heads().is_multiple_of(config.num_key_value_heads()));
            let _ = config.apply_generation_config(file, text);
            if config.num_hidden_layers() > MAX_LAYERS {
                return;
            }
            for parameter in gemma_xla::model::parameters(&config) {
                assert!(parameter.elements() > 0);
            }
        }
        Err(error) => one_line(&error),
    }
});
