//! Tokenizers that have more tokens than the model has rows.

use std::fs;

use crate::common::{copy_of, fails_naming, gemma_xla};

#[test]
fn an_id_beyond_the_embeddings_rows_is_refused_by_name() {
    let model = copy_of("gemma-small");
    let file = model.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
    let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
    added.push(serde_json::json!({
        "id": 2048, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
    }));
    fs::write(&file, tokenizer.to_string()).expect("written");
    fails_naming(
        gemma_xla()
            .args(["generate", "Look: <image>", "--model"])
            .arg(model.path()),
        &["prompt 0", "token id 2048", "vocabulary of 2048"],
    );
}
