#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gemma_xla::serve::Doorway;
use gemma_xla::{LoadOptions, Model};
use libfuzzer_sys::fuzz_target;

const PATHS: [&str; 6] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/generate",
    "/generate_stream",
    "/tokenize",
    "/predict",
];

/// The small Gemma's tokenizer, template and sizes, without a thread that runs anything.
static DOORWAY: LazyLock<Doorway> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/gemma-small");
    let model = Model::open(folder).expect("the model opens");
    let served = model.into_served(&LoadOptions::default());
    Doorway::new(served.expect("the model loads")).expect("a runtime")
});

fuzz_target!(|input: &[u8]| {
    let Some((&which, body)) = input.split_first() else {
        return;
    };
    let path = PATHS[usize::from(which) % PATHS.len()];
    if let Some((status, answer)) = DOORWAY.post(path, body) {
        // Whatever the body has: a reply or one line of JSON with a client's error. 429 and 503 are
        // a server's that has no rows.
        assert!((200..500).contains(&status) || status == 503, "{status}");
        if status >= 400 {
            let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
            let error = &answer["error"];
            let message = error.as_str().or(error["message"].as_str()).expect("a message");
            assert!(!message.is_empty() && message.len() < 1000, "{message}");
        }
    }
});
