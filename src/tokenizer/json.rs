//! Reads `tokenizer.json`.

use tokenizers::Tokenizer;

use super::caught::caught;

/// What Hugging Face's library makes of the file. Wherever it is called it may panic, since it takes for granted that parts of the file agree.
pub(super) struct Json(Box<Tokenizer>);

impl Json {
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        // Many files that are merely cut short make the library panic; this says where they end.
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
        let mut tokenizer = caught(|| Tokenizer::from_bytes(json))?;
        // As in Transformers, what a file says of these was meant for training: prompts are taken whole, and a batch pads its own.
        caught(|| tokenizer.with_truncation(None).map(|_| ()))?;
        tokenizer.with_padding(None);
        Ok(Self(Box::new(tokenizer)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// The token of an id, as it stands in the file.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// The ids of a text, with what the file's own rules put around it.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        caught(|| self.0.encode(text, true)).map(|encoding| encoding.get_ids().to_vec())
    }

    /// The text of ids; those that are special have none.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        caught(|| self.0.decode(ids, true))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::tokenizer::Tokenizer;

    #[test]
    fn a_file_cut_short_anywhere_is_an_error_of_one_line() {
        let whole = include_bytes!("../../fuzz/seeds/tokenizer/bpe.json");
        let path = Path::new("tokenizer.json");
        assert!(Tokenizer::from_json(path, whole, Some(2)).is_ok());
        for len in (0..whole.len()).step_by(3) {
            let Err(error) = Tokenizer::from_json(path, &whole[..len], Some(2)) else {
                panic!("{len} bytes are a tokenizer");
            };
            let message = error.to_string();
            assert!(
                message.starts_with("tokenizer.json: not a tokenizer"),
                "{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_template_with_a_token_that_it_does_not_declare_is_an_error_of_one_line() {
        let whole = include_str!("../../fuzz/seeds/tokenizer/bpe.json");
        let declared = r#""special_tokens": {"<bos>":"#;
        assert!(whole.contains(declared));
        let broken = whole.replace(declared, r#""special_tokens": {"<eos>":"#);
        let path = Path::new("tokenizer.json");
        let error = Tokenizer::from_json(path, broken.as_bytes(), Some(2))
            .and_then(|tokenizer| tokenizer.encode("a text"))
            .unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("tokenizer.json: "), "{message}");
        assert!(message.ends_with("malformed"), "{message}");
    }

    #[test]
    fn truncation_and_padding_are_left_to_the_batch() {
        let whole = include_str!("../../fuzz/seeds/tokenizer/bpe.json");
        let path = Path::new("tokenizer.json");
        let plain = Tokenizer::from_json(path, whole.as_bytes(), Some(2)).unwrap();
        let mut edited: serde_json::Value = serde_json::from_str(whole).unwrap();
        edited["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        });
        edited["padding"] = serde_json::json!({
            "strategy": {"Fixed": 1_u64 << 40}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"
        });
        let edited = edited.to_string();
        let edited = Tokenizer::from_json(path, edited.as_bytes(), Some(2)).unwrap();
        let text = "It is a truth universally acknowledged";
        assert_eq!(edited.encode(text).unwrap(), plain.encode(text).unwrap());
    }
}
