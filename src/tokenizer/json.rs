//! Reads `tokenizer.json`.

use tokenizers::{Decoder, DecoderWrapper, Tokenizer};

use super::bounds::Parts;
use super::caught::caught;
use super::pieces::byte_of;
use super::stream::Role;
use super::token::TokenText;
use crate::input_file::without_byte_order_mark;

/// The tokenizer as Hugging Face's library reads it. Any call into the library may panic, since it
/// takes for granted that the parts of a file fit each other.
pub(super) struct Json {
    tokenizer: Box<Tokenizer>,
    /// How tokens become text, where each does so on its own, byte tokens apart.
    local: Option<LocalDecoder>,
    /// Whether a token stands for no more bytes of a text than it has itself.
    covers_text: bool,
}

/// A decoder that replaces parts of single tokens, decodes runs of byte tokens, and joins the
/// results.
struct LocalDecoder {
    /// The steps that run before `ByteFallback` looks at a token.
    before_bytes: Vec<DecoderWrapper>,
    has_bytes: bool,
}

impl LocalDecoder {
    /// The decoder, if it has this form.
    fn of(decoder: &DecoderWrapper) -> Option<Self> {
        let steps = match decoder {
            DecoderWrapper::Sequence(sequence) => sequence.get_decoders(),
            single => std::slice::from_ref(single),
        };
        let mut local = LocalDecoder {
            before_bytes: Vec::new(),
            has_bytes: false,
        };
        let mut fused = false;
        for step in steps {
            match step {
                DecoderWrapper::Replace(_) if !fused => {
                    if !local.has_bytes {
                        local.before_bytes.push(step.clone());
                    }
                }
                DecoderWrapper::ByteFallback(_) if !fused && !local.has_bytes => {
                    local.has_bytes = true;
                }
                DecoderWrapper::Fuse(_) => fused = true,
                _ => return None,
            }
        }
        Some(local)
    }

    /// Whether a token is a byte to the library's `ByteFallback`.
    fn is_byte(&self, token: String) -> bool {
        let replaced = self
            .before_bytes
            .iter()
            .try_fold(vec![token], |tokens, step| {
                caught(|| step.decode_chain(tokens))
            });
        // A step that fails here fails when the text is decoded, which reports it.
        let Ok([token]) = replaced.as_deref() else {
            return false;
        };
        let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
        self.has_bytes && digits.is_some_and(|d| d.len() == 2 && u8::from_str_radix(d, 16).is_ok())
    }
}

impl Json {
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        // The library panics on many files that are cut short; this reports where they end.
        let json = without_byte_order_mark(json);
        let parts: Parts = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        parts.check_growth()?;
        let mut tokenizer = caught(|| Tokenizer::from_bytes(json))?;
        // As in Transformers, these are for training only: prompts are taken whole, and a batch has
        // its own padding.
        caught(|| tokenizer.with_truncation(None).map(|_| ()))?;
        tokenizer.with_padding(None);
        let local = tokenizer.get_decoder().and_then(LocalDecoder::of);
        let has_every_byte =
            (0..=255_u8).all(|byte| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).is_some());
        Ok(Self {
            tokenizer: Box::new(tokenizer),
            local,
            covers_text: parts.tokens_cover_text() && has_every_byte,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The most bytes of a text that one token stands for, where that is known.
    pub(super) fn longest_token(&self) -> Option<usize> {
        let lengths = || {
            let tokens = (0..self.len()).filter_map(|id| u32::try_from(id).ok());
            let tokens = tokens.filter_map(|id| self.tokenizer.id_to_token(id));
            tokens.map(|token| token.len())
        };
        self.covers_text.then(|| lengths().max())?
    }

    /// What an id stands for by itself.
    pub(super) fn token(&self, id: u32) -> Option<TokenText> {
        let name = self.tokenizer.id_to_token(id)?;
        Some(match self.role(id) {
            Role::Hidden => TokenText::special(&name),
            Role::Byte => match byte_of(&name) {
                Some(byte) => TokenText::of_byte(byte),
                None => TokenText::special(&name),
            },
            Role::Text => TokenText::of_text(&self.decode(&[id]).unwrap_or(name)),
        })
    }

    /// What an id contributes to a text.
    pub(super) fn role(&self, id: u32) -> Role {
        let token = self.tokenizer.id_to_token(id);
        let added = self.tokenizer.get_added_vocabulary();
        let Some(token) = token.filter(|token| !added.is_special_token(token)) else {
            return Role::Hidden;
        };
        match &self.local {
            Some(decoder) if decoder.is_byte(token) => Role::Byte,
            _ => Role::Text,
        }
    }

    /// Whether the text of a token depends on no other, byte tokens apart.
    pub(super) fn decodes_locally(&self) -> bool {
        self.local.is_some()
    }

    /// The id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The ids of a text alone.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        caught(|| self.tokenizer.encode(text, false)).map(|encoding| encoding.get_ids().to_vec())
    }

    /// The ids of a text with what the post-processor puts around it, and how many of them it put
    /// in front.
    pub(super) fn encode_processed(&self, text: &str) -> Result<(Vec<u32>, usize), String> {
        let encoding = caught(|| self.tokenizer.encode(text, true))?;
        let added = encoding.get_special_tokens_mask().iter();
        let before = added.take_while(|&&is_added| is_added == 1).count();
        Ok((encoding.get_ids().to_vec(), before))
    }

    /// The text of ids; those that are special have none.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, String> {
        caught(|| self.tokenizer.decode(ids, true))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::tokenizer::{BoundaryTokens, Tokenizer};

    #[test]
    fn a_file_cut_short_anywhere_is_an_error_of_one_line() {
        let whole = include_bytes!("../../fuzz/seeds/tokenizer/bpe.json");
        let path = Path::new("tokenizer.json");
        let tokens = BoundaryTokens::default();
        assert!(Tokenizer::from_json(path, whole, &tokens).is_ok());
        for len in (0..whole.len()).step_by(3) {
            let Err(error) = Tokenizer::from_json(path, &whole[..len], &tokens) else {
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
        let tokens = BoundaryTokens {
            post_processor: true,
            ..BoundaryTokens::default()
        };
        let error = Tokenizer::from_json(path, broken.as_bytes(), &tokens)
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
        let tokens = BoundaryTokens::default();
        let plain = Tokenizer::from_json(path, whole.as_bytes(), &tokens).unwrap();
        let mut edited: serde_json::Value = serde_json::from_str(whole).unwrap();
        edited["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        });
        edited["padding"] = serde_json::json!({
            "strategy": {"Fixed": 1_u64 << 40}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"
        });
        let edited = edited.to_string();
        let edited = Tokenizer::from_json(path, edited.as_bytes(), &tokens).unwrap();
        let text = "It is a truth universally acknowledged";
        assert_eq!(edited.encode(text).unwrap(), plain.encode(text).unwrap());
    }
}
