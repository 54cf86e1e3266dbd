//! Reads `tokenizer.json`.

/// Parses a tokenizer. The library panics on some malformed files, among them many that are merely cut short: those are found
/// before it sees them, and the rest is caught.
pub(super) fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json)) {
        Ok(parsed) => parsed.map_err(|e| e.to_string()),
        Err(_) => Err("a part of it is malformed".to_owned()),
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
}
