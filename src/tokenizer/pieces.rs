//! Reads SentencePiece's `tokenizer.model`: a protobuf with a list of pieces.
//!
//! Text is encoded by `kitoken`. Ids are decoded here, as `tokenizer.json`'s decoder does it for
//! the same pieces: `▁` is a space, and byte pieces that follow each other are UTF-8 together or a
//! replacement character each.

use kitoken::{Kitoken, SpecialTokenKind};
use sentencepiece_model::{ModelType, SentencePiece, SentencePieceModel, Type};

use super::caught::caught;
use super::stream::Role;
use super::token::TokenText;

/// The largest file that is read. Gemma's have 4 to 5 MB.
pub(super) const MAX_FILE: usize = 1 << 26;
/// The longest piece. What a piece can be merged from is tried for each of its bytes, so that a
/// long one would take long; Gemma's longest have 93 bytes.
const MAX_PIECE: usize = 512;
/// User-defined pieces that Gemma's `tokenizer.json` marks as special.
const TURNS: [&str; 2] = ["<start_of_turn>", "<end_of_turn>"];

pub(super) struct Pieces {
    encoder: Kitoken,
    decoder: Vec<Piece>,
    /// Control pieces, and the unknown one. SentencePiece itself does not look for them in a text.
    controls: Vec<(Box<str>, u32)>,
}

/// What an id stands for in a text.
enum Piece {
    Text(Box<str>),
    Byte(u8),
    /// A special one, by its name.
    Hidden(Box<str>),
}

impl Pieces {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_FILE {
            return Err(format!(
                "larger than the {MAX_FILE} bytes that such a file may have"
            ));
        }
        let model = SentencePieceModel::from_slice(bytes).map_err(|e| e.to_string())?;
        let mut decoder = Vec::with_capacity(model.pieces().len());
        let mut controls = Vec::new();
        for (id, piece) in (0..).zip(model.pieces()) {
            let text = piece.piece();
            if text.is_empty() || text.len() > MAX_PIECE {
                return Err(format!(
                    "piece {id} has {} bytes, expected 1 to {MAX_PIECE}",
                    text.len()
                ));
            }
            decoder.push(match piece.r#type() {
                Type::Byte => byte_of(text).map(Piece::Byte).ok_or_else(|| {
                    format!("piece {id} is a byte, and {text:?} does not say which")
                })?,
                Type::Control | Type::Unknown => {
                    controls.push((text.into(), id));
                    Piece::Hidden(text.into())
                }
                _ if TURNS.contains(&text) => Piece::Hidden(text.into()),
                _ => Piece::Text(text.replace('\u{2581}', " ").into()),
            });
        }
        require_gemmas_form(&model)?;
        // The library takes for granted that there is one.
        let has_text = |piece: &SentencePiece| matches!(piece.r#type(), Type::Normal | Type::Byte);
        if !model.pieces().iter().any(has_text) {
            return Err("it has no pieces of text".to_owned());
        }
        // The library panics on files that break its assumptions.
        Ok(Self {
            encoder: caught(|| Kitoken::from_sentencepiece_model(model))?,
            decoder,
            controls,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.decoder.len()
    }

    /// The most bytes of a text that one token stands for.
    pub(super) fn longest_token(&self) -> usize {
        // A space is a byte in a text and three in a piece.
        let controls = self.controls.iter().map(|(piece, _)| piece.len());
        let texts = self.decoder.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Byte(_) => 1,
            Piece::Hidden(name) => name.len(),
        });
        controls.chain(texts).max().unwrap_or(1)
    }

    /// The id of a piece.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        match self.encode(token).as_deref() {
            Ok([id]) => Some(*id),
            _ => None,
        }
    }

    /// What an id stands for by itself.
    pub(super) fn token(&self, id: u32) -> Option<TokenText> {
        Some(match self.piece(id)? {
            Piece::Text(text) => TokenText::of_text(text),
            Piece::Byte(byte) => TokenText::of_byte(*byte),
            Piece::Hidden(name) => TokenText::special(name),
        })
    }

    /// What an id contributes to a text.
    pub(super) fn role(&self, id: u32) -> Role {
        match self.piece(id) {
            Some(Piece::Byte(_)) => Role::Byte,
            Some(Piece::Text(_)) => Role::Text,
            Some(Piece::Hidden(_)) | None => Role::Hidden,
        }
    }

    /// The ids of a text, without `<bos>`. Special tokens in the text become their own ids.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((before, id, after)) = self.split(rest) {
            ids.extend(self.encode_plain(before)?);
            ids.push(id);
            rest = after;
        }
        ids.extend(self.encode_plain(rest)?);
        Ok(ids)
    }

    /// What is before and after the first control piece in a text.
    fn split<'a>(&self, text: &'a str) -> Option<(&'a str, u32, &'a str)> {
        let found = self.controls.iter().filter_map(|(piece, id)| {
            let (before, after) = text.split_once(&**piece)?;
            Some((before, *id, after))
        });
        found.min_by_key(|(before, _, after)| (before.len(), after.len()))
    }

    /// The ids of a text without control pieces. User-defined pieces become their own ids.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, String> {
        let kinds: &[SpecialTokenKind] = &[SpecialTokenKind::Priority];
        caught(|| self.encoder.encode(text, kinds))
    }

    /// The text of ids; those that are special or unknown have none.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        let mut run = Vec::new();
        for &id in ids {
            match self.piece(id) {
                Some(Piece::Byte(byte)) => run.push(*byte),
                Some(Piece::Text(piece)) => {
                    push_bytes(&mut text, &mut run);
                    text.push_str(piece);
                }
                Some(Piece::Hidden(_)) | None => {}
            }
        }
        push_bytes(&mut text, &mut run);
        text
    }

    fn piece(&self, id: u32) -> Option<&Piece> {
        self.decoder.get(usize::try_from(id).ok()?)
    }
}

/// Takes the settings that all Gemma's files have, and no others: texts are encoded as they are, by
/// merging pairs. The library panics on some texts where they are otherwise.
fn require_gemmas_form(model: &SentencePieceModel) -> Result<(), String> {
    let trainer = model.trainer().ok_or("it has no trainer_spec")?;
    let normalizer = model.normalizer().ok_or("it has no normalizer_spec")?;
    for (is_so, expected) in [
        (trainer.model_type() == ModelType::Bpe, "model_type BPE"),
        (trainer.byte_fallback(), "byte_fallback true"),
        (
            !trainer.treat_whitespace_as_suffix(),
            "treat_whitespace_as_suffix false",
        ),
        (normalizer.name() == "identity", "normalizer identity"),
        (!normalizer.add_dummy_prefix(), "add_dummy_prefix false"),
        (
            !normalizer.remove_extra_whitespaces(),
            "remove_extra_whitespaces false",
        ),
        (normalizer.escape_whitespaces(), "escape_whitespaces true"),
    ] {
        if !is_so {
            return Err(format!("not in Gemma's form, which has {expected}"));
        }
    }
    Ok(())
}

/// Adds a run of bytes to a text, and empties it.
fn push_bytes(text: &mut String, run: &mut Vec<u8>) {
    match std::str::from_utf8(run) {
        Ok(part) => text.push_str(part),
        Err(_) => text.extend(run.iter().map(|_| char::REPLACEMENT_CHARACTER)),
    }
    run.clear();
}

/// The byte that a piece `<0x41>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use sentencepiece_model::{ModelProto, NormalizerSpec, TrainerSpec};

    use super::*;
    use crate::tokenizer::{BoundaryTokens, Tokenizer};

    fn gemmas() -> BoundaryTokens {
        BoundaryTokens::default()
    }

    /// The protobuf of a small model in Gemma's form; `more` pieces come at its end.
    fn model(more: &[(&str, Type)]) -> Vec<u8> {
        let mut pieces = vec![
            ("<pad>".to_owned(), Type::Control),
            ("<eos>".to_owned(), Type::Control),
            ("<bos>".to_owned(), Type::Control),
            ("<unk>".to_owned(), Type::Unknown),
            ("<start_of_turn>".to_owned(), Type::UserDefined),
            ("\n\n".to_owned(), Type::UserDefined),
        ];
        pieces.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), Type::Byte)));
        pieces.extend(
            ["\u{2581}a", "ab", "\u{2581}\u{2581}", "\u{2581}", "a", "b"]
                .map(|p| (p.to_owned(), Type::Normal)),
        );
        pieces.extend(more.iter().map(|&(piece, kind)| (piece.to_owned(), kind)));
        let pieces = pieces
            .into_iter()
            .enumerate()
            .map(|(id, (piece, kind))| SentencePiece {
                piece: Some(piece),
                score: Some(-(id as f32)),
                r#type: Some(kind.into()),
            });
        let model = ModelProto {
            pieces: pieces.collect(),
            trainer_spec: Some(TrainerSpec {
                model_type: Some(ModelType::Bpe.into()),
                byte_fallback: Some(true),
                pad_id: Some(0),
                eos_id: Some(1),
                bos_id: Some(2),
                unk_id: Some(3),
                pad_piece: Some("<pad>".to_owned()),
                eos_piece: Some("<eos>".to_owned()),
                ..TrainerSpec::default()
            }),
            normalizer_spec: Some(NormalizerSpec {
                name: Some("identity".to_owned()),
                add_dummy_prefix: Some(false),
                remove_extra_whitespaces: Some(false),
                ..NormalizerSpec::default()
            }),
            ..ModelProto::default()
        };
        prost::Message::encode_to_vec(&model)
    }

    pub(in crate::tokenizer) fn tokenizer() -> Tokenizer {
        Tokenizer::from_model(Path::new("tokenizer.model"), &model(&[]), &gemmas()).unwrap()
    }

    /// The id of a byte's piece.
    fn byte(byte: u8) -> u32 {
        6 + u32::from(byte)
    }

    const FIRST_TEXT: u32 = 6 + 256;

    #[test]
    fn texts_become_pieces_bytes_and_specials() {
        let tokenizer = tokenizer();
        let [space_a, ab, spaces, space, a] = [0, 1, 2, 3, 4].map(|n| FIRST_TEXT + n);
        for (text, ids) in [
            ("", vec![]),
            ("ab a", vec![ab, space_a]),
            ("   ", vec![spaces, space]),
            ("a\u{20ac}", vec![a, byte(0xe2), byte(0x82), byte(0xac)]),
            ("<start_of_turn>a\n\n", vec![4, a, 5]),
            (
                "<bos><bos>a<eos><unk>b<bos",
                vec![
                    a,
                    1,
                    3,
                    FIRST_TEXT + 5,
                    byte(b'<'),
                    FIRST_TEXT + 5,
                    byte(b'o'),
                    byte(b's'),
                ],
            ),
        ] {
            let expected = [vec![2], ids].concat();
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(tokenizer.vocabulary_size(), 268);
    }

    #[test]
    fn ids_become_text_again() {
        let tokenizer = tokenizer();
        for text in ["ab a", "   ", "a\u{20ac}\u{1f600}b", "\n\na"] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        let broken = [byte(0xe2), byte(0x82), FIRST_TEXT + 4, byte(b'a')];
        assert_eq!(tokenizer.decode(&broken).unwrap(), "\u{fffd}\u{fffd}aa");
        assert_eq!(
            tokenizer.decode(&[0, 1, 2, 3, 4, 999_999]).unwrap(),
            "",
            "special or nothing"
        );
    }

    #[test]
    fn bytes_at_the_end_are_not_settled() {
        let tokenizer = tokenizer();
        let a = FIRST_TEXT + 4;
        let settled = |ids: &[u32]| tokenizer.stream(&[]).push(ids).unwrap();
        assert_eq!(settled(&[byte(1), a, byte(2), byte(3)]), "\u{1}a");
        assert_eq!(settled(&[a, 2]), "a");
        assert_eq!(settled(&[byte(1)]), "");
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error_of_one_line_or_a_smaller_tokenizer() {
        let whole = model(&[]);
        for len in (0..whole.len()).step_by(7) {
            match Tokenizer::from_model(Path::new("tokenizer.model"), &whole[..len], &gemmas()) {
                // Protobuf has no end mark: the rest may be whole fields.
                Ok(tokenizer) => assert!(tokenizer.vocabulary_size() <= 268),
                Err(error) => {
                    let message = error.to_string();
                    assert!(
                        message.starts_with("tokenizer.model: not a tokenizer: "),
                        "{message}"
                    );
                    assert!(!message.contains('\n'), "{message}");
                }
            }
        }
    }

    #[test]
    fn a_model_without_text_or_in_another_form_is_refused() {
        let edited = |edit: &dyn Fn(&mut ModelProto)| {
            let bytes = model(&[]);
            let mut proto: ModelProto = prost::Message::decode(bytes.as_slice()).unwrap();
            edit(&mut proto);
            prost::Message::encode_to_vec(&proto)
        };
        for (bytes, said) in [
            (Vec::new(), "no trainer_spec"),
            (edited(&|m| m.pieces.truncate(6)), "no pieces of text"),
            (edited(&|m| m.normalizer_spec = None), "no normalizer_spec"),
            (
                edited(&|m| {
                    m.trainer_spec.as_mut().unwrap().model_type = Some(ModelType::Unigram.into())
                }),
                "model_type BPE",
            ),
            (
                edited(&|m| m.normalizer_spec.as_mut().unwrap().add_dummy_prefix = Some(true)),
                "add_dummy_prefix false",
            ),
        ] {
            let Err(error) = Tokenizer::from_model(Path::new("t"), &bytes, &gemmas()) else {
                panic!("taken, though it has {said}");
            };
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn pieces_that_cannot_be_are_refused() {
        let long = "x".repeat(MAX_PIECE + 1);
        for (piece, kind, said) in [
            ("", Type::Normal, "piece 268 has 0 bytes"),
            (long.as_str(), Type::Normal, "piece 268 has 513 bytes"),
            ("<0xGG>", Type::Byte, "piece 268 is a byte"),
        ] {
            let Err(error) =
                Tokenizer::from_model(Path::new("t"), &model(&[(piece, kind)]), &gemmas())
            else {
                panic!("{piece:?} is a piece");
            };
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
