//! Decodes tokens as they arrive.

use super::{Error, Tokenizer};

/// What a token contributes to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing: it is special, or the tokenizer does not have it.
    Hidden,
    /// A byte, which is decoded together with the bytes on both sides of it.
    Byte,
    /// A text that does not depend on other tokens.
    Text,
}

/// Decodes a row of tokens piece by piece. The texts that [`push`](Self::push) and
/// [`finish`](Self::finish) return are together what [`Tokenizer::decode`] makes of all tokens at
/// once, and none of them is ever taken back.
///
/// A run of byte tokens is decoded when it has ended: until then it may turn out to be the start of
/// a character, or not to be UTF-8. The cost of a token does not depend on how many came before it.
///
/// A `tokenizer.json` may have a decoder whose tokens depend on each other in other ways. Gemma's
/// do not; for those that do, the whole text is returned by `finish`.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens whose text is not settled yet.
    pending: Vec<u32>,
    /// How many of `pending` are the prompt's.
    of_prompt: usize,
}

impl Tokenizer {
    /// A stream of the text that follows `prompt`: of what new tokens add to the prompt's own text,
    /// so that a leading space is not lost. An empty prompt gives the text of the tokens alone.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        let pending: Vec<u32> = if self.decodes_locally() {
            // Only bytes at the prompt's end can combine with what follows.
            let tail = prompt.iter().rev().map(|&id| (id, self.role(id)));
            let mut tail: Vec<u32> = tail
                .take_while(|(_, role)| *role != Role::Text)
                .filter(|(_, role)| *role == Role::Byte)
                .map(|(id, _)| id)
                .collect();
            tail.reverse();
            tail
        } else {
            prompt.to_vec()
        };
        TextStream {
            tokenizer: self,
            of_prompt: pending.len(),
            pending,
        }
    }
}

impl TextStream<'_> {
    /// Takes the next tokens and returns the text that is settled by them.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn push(&mut self, ids: &[u32]) -> Result<String, Error> {
        if !self.tokenizer.decodes_locally() {
            self.pending.extend(ids);
            return Ok(String::new());
        }
        let mut text = String::new();
        for &id in ids {
            match self.tokenizer.role(id) {
                Role::Hidden => {}
                Role::Byte => self.pending.push(id),
                Role::Text => {
                    self.pending.push(id);
                    text.push_str(&self.settle()?);
                }
            }
        }
        Ok(text)
    }

    /// Ends the row and returns the rest of its text.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn finish(mut self) -> Result<String, Error> {
        self.settle()
    }

    /// The text of the pending tokens, without what the prompt's own have in it.
    fn settle(&mut self) -> Result<String, Error> {
        let all = self.tokenizer.decode(&self.pending)?;
        let (prompt, new) = self.pending.split_at(self.of_prompt);
        let text = if prompt.is_empty() {
            all
        } else {
            let before = self.tokenizer.decode(prompt)?;
            match all.strip_prefix(&before) {
                Some(added) => added.to_owned(),
                // The new tokens changed the prompt's own text: they complete a character, or break
                // one.
                None => self.tokenizer.decode(new)?,
            }
        };
        self.pending.clear();
        self.of_prompt = 0;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::BoundaryTokens;
    use super::super::pieces::tests::tokenizer as pieces;
    use super::*;

    fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> Tokenizer {
        let whole = include_bytes!("../../tests/data/gemma-small/tokenizer.json");
        let mut value: serde_json::Value = serde_json::from_slice(whole).expect("JSON");
        edit(&mut value);
        Tokenizer::from_json(
            Path::new("tokenizer.json"),
            value.to_string().as_bytes(),
            &BoundaryTokens::default(),
        )
        .expect("it is a tokenizer")
    }

    fn json() -> Tokenizer {
        edited(|_| {})
    }

    /// The text of each push, then of the end.
    fn parts(tokenizer: &Tokenizer, prompt: &[u32], new: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream(prompt);
        let mut parts: Vec<String> = new
            .iter()
            .map(|&id| stream.push(&[id]).expect("decoded"))
            .collect();
        parts.push(stream.finish().expect("decoded"));
        parts
    }

    /// Ids of every role, bytes often, so that runs of them form.
    fn ids(tokenizer: &Tokenizer) -> impl Strategy<Value = Vec<u32>> + use<> {
        let size = tokenizer.vocabulary_size() as u32;
        let of = |role| -> Vec<u32> {
            let ids = (0..size).filter(|&id| tokenizer.role(id) == role);
            ids.collect()
        };
        let (bytes, hidden) = (of(Role::Byte), of(Role::Hidden));
        assert_eq!(bytes.len(), 256, "byte-fallback pieces");
        assert!(hidden.len() >= 3);
        // The bytes of whole characters too: random bytes hardly ever form one.
        let characters = prop::sample::select(vec!["\u{e9}", "\u{20ac}", "\u{1f600}", "a"]);
        let all_bytes = bytes.clone();
        let character = characters.prop_map(move |character: &str| {
            let byte = |byte: u8| all_bytes[usize::from(byte)];
            character.bytes().map(byte).collect::<Vec<u32>>()
        });
        let piece = prop_oneof![
            4 => prop::sample::select(bytes).prop_map(|id| vec![id]),
            4 => character,
            1 => prop::sample::select(hidden).prop_map(|id| vec![id]),
            4 => (0..size + 3).prop_map(|id| vec![id]),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    fn holds(tokenizer: &Tokenizer, prompt: &[u32], new: &[u32]) -> Result<(), TestCaseError> {
        let alone = parts(tokenizer, &[], new).concat();
        prop_assert_eq!(&alone, &tokenizer.decode(new).unwrap());
        let all = tokenizer.decode(&[prompt, new].concat()).unwrap();
        let before = tokenizer.decode(prompt).unwrap();
        let expected = match all.strip_prefix(&before) {
            Some(added) => added.to_owned(),
            None => tokenizer.decode(new).unwrap(),
        };
        let continued = parts(tokenizer, prompt, new).concat();
        prop_assert_eq!(&continued, &expected);
        // Pushed all at once.
        prop_assert_eq!(
            &tokenizer.decode_continuation(prompt, new).unwrap(),
            &expected
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn parts_of_a_tokenizer_json_are_the_whole((prompt, new) in (ids(&json()), ids(&json()))) {
            thread_local!(static TOKENIZER: Tokenizer = json());
            TOKENIZER.with(|tokenizer| holds(tokenizer, &prompt, &new))?;
        }

        #[test]
        fn parts_of_a_tokenizer_model_are_the_whole((prompt, new) in (ids(&pieces()), ids(&pieces()))) {
            thread_local!(static TOKENIZER: Tokenizer = pieces());
            TOKENIZER.with(|tokenizer| holds(tokenizer, &prompt, &new))?;
        }
    }

    #[test]
    fn a_character_comes_when_its_run_of_bytes_has_ended() {
        let tokenizer = json();
        let ids: Vec<u32> = (0..2048)
            .filter(|&id| tokenizer.role(id) == Role::Byte)
            .collect();
        let text = tokenizer.encode("the").expect("encoded")[0];
        let [first, second, third] = [0xe2, 0x82, 0xac].map(|byte: usize| ids[byte]);
        assert_eq!(
            parts(&tokenizer, &[], &[first, second, third, text])[..3],
            ["", "", ""]
        );
        assert_eq!(
            parts(&tokenizer, &[], &[first, second, third])[3],
            "\u{20ac}",
            "the end of the row ends the run"
        );
        // A special token between two bytes has no text, and does not end the run.
        assert_eq!(
            parts(&tokenizer, &[], &[first, 2, second, third]).concat(),
            "\u{20ac}"
        );
    }

    #[test]
    fn the_time_of_a_token_does_not_grow_with_the_text() {
        // What is kept between tokens is what a token can cost.
        for tokenizer in [json(), pieces()] {
            let mut stream = tokenizer.stream(&[]);
            for id in (0..tokenizer.vocabulary_size() as u32)
                .rev()
                .cycle()
                .take(100_000)
            {
                stream.push(&[id]).expect("decoded");
                assert!(stream.pending.len() <= 256);
            }
        }
    }

    #[test]
    fn a_decoder_whose_tokens_depend_on_each_other_gives_its_text_at_the_end() {
        let strips = |value: &mut serde_json::Value| {
            let strip = serde_json::json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
            let decoders = value["decoder"]["decoders"].as_array_mut().expect("a list");
            decoders.push(strip);
        };
        let none = |value: &mut serde_json::Value| value["decoder"] = serde_json::Value::Null;
        for tokenizer in [edited(strips), edited(none)] {
            assert!(!tokenizer.decodes_locally());
            let ids = tokenizer
                .encode("She said that it was a truth")
                .expect("encoded");
            let found = parts(&tokenizer, &[], &ids);
            assert_eq!(
                found[found.len() - 1],
                tokenizer.decode(&ids).expect("decoded")
            );
            let (prompt, new) = ids.split_at(3);
            let expected = tokenizer.decode_continuation(prompt, new).expect("decoded");
            assert_eq!(parts(&tokenizer, prompt, new).concat(), expected);
            let whole = tokenizer.decode(prompt).expect("decoded") + &expected;
            assert_eq!(whole, tokenizer.decode(&ids).expect("decoded"));
        }
    }
}
