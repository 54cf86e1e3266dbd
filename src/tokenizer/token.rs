//! What a single token stands for.

use super::{Form, Tokenizer};

/// What a token stands for by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    /// Its text, `<0xE2>` for a byte that may be a part of a character, or the name of a special
    /// token.
    pub name: String,
    /// The bytes that it adds to a text; none where it is special.
    pub bytes: Vec<u8>,
}

impl TokenText {
    pub(super) fn of_text(text: &str) -> Self {
        Self {
            name: text.to_owned(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    pub(super) fn of_byte(byte: u8) -> Self {
        Self {
            name: match byte {
                0x20..=0x7E | b'\n' | b'\t' => char::from(byte).to_string(),
                _ => format!("<0x{byte:02X}>"),
            },
            bytes: vec![byte],
        }
    }

    pub(super) fn special(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bytes: Vec::new(),
        }
    }
}

impl Tokenizer {
    /// What a token stands for by itself; nothing where there is no such token.
    pub fn token(&self, id: u32) -> Option<TokenText> {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.token(id),
            Form::Pieces(pieces) => pieces.token(id),
        }
    }

    /// The id of a special token, or of any text that is a single token.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.id(token),
            Form::Pieces(pieces) => pieces.id(token),
        }
    }
}
