//! Replies that follow a JSON schema or a regular expression: which tokens may come next.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::tokenizer::Tokenizer;

/// What a reply must follow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
}

/// Makes constraints for replies in the tokens of a tokenizer.
pub(super) struct Grammars(ParserFactory);

/// The tokens as the library wants them: it never forces tokens, so that it need not encode.
struct Tokens(TokTrie);

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl Grammars {
    /// For a tokenizer whose replies end with the token `end`.
    ///
    /// # Errors
    /// What the library says.
    pub fn new(tokenizer: &Tokenizer, end: u32) -> Result<Self, String> {
        let count = u32::try_from(tokenizer.vocabulary_size()).map_err(|e| e.to_string())?;
        let word = |id| match tokenizer.token(id) {
            Some(token) if token.bytes.is_empty() => {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], token.name.as_bytes()].concat()
            }
            Some(token) => token.bytes,
            None => Vec::new(),
        };
        let words: Vec<Vec<u8>> = (0..count).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, end), &words);
        let tokens: TokEnv = Arc::new(Tokens(trie));
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &[])
            .map_err(|problem| problem.to_string())?;
        factory.quiet();
        // An error is a line of an answer: no states of the parser in it.
        factory.limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    /// A constraint for one reply.
    ///
    /// # Errors
    /// A schema or an expression that the library does not take.
    pub fn constraint(&self, form: &Form) -> Result<Constraint, String> {
        let json = |mut schema: Value| {
            if let Value::Object(schema) = &mut schema {
                // With any space allowed between its parts, a model can write spaces for ever.
                let spaces = json!({"whitespace_flexible": false, "item_separator": ", ",
                    "key_separator": ": "});
                schema.entry("x-guidance").or_insert(spaces);
            }
            TopLevelGrammar::from_json_schema(schema)
        };
        let grammar = match form {
            Form::JsonObject => json(json!({"type": "object"})),
            Form::JsonSchema(schema) => json(schema.clone()),
            Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
        };
        let mut matcher = Matcher::new(self.0.create_parser(grammar));
        match matcher.get_error() {
            Some(problem) => Err(first_line(&problem)),
            // A grammar can fail at its first step alone.
            None => match matcher.compute_mask_or_eos() {
                Ok(_) => Ok(Constraint(matcher)),
                Err(problem) => Err(first_line(&problem.to_string())),
            },
        }
    }
}

/// What may come next in one reply.
pub(super) struct Constraint(Matcher);

impl Constraint {
    /// The tokens that may come next, a bit each.
    ///
    /// # Errors
    /// A grammar that takes too long or has no next token.
    pub fn allowed(&mut self) -> Result<Vec<u32>, String> {
        let allowed = self.0.compute_mask_or_eos();
        allowed
            .map(Vec::from)
            .map_err(|problem| first_line(&problem.to_string()))
    }

    /// Takes a token; true where nothing may follow it.
    pub fn push(&mut self, token: u32) -> bool {
        self.0.consume_token(token).is_err() || self.0.is_stopped()
    }
}

fn first_line(problem: &str) -> String {
    let line = problem.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn grammars() -> (Tokenizer, Grammars) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gemma-small");
        let tokenizer = Tokenizer::from_dir(&folder)
            .expect("it reads")
            .expect("it is there");
        let end = tokenizer.token_id("<eos>").expect("it has it");
        let grammars = Grammars::new(&tokenizer, end).expect("they are made");
        (tokenizer, grammars)
    }

    /// The text that comes of always taking the last token that is allowed.
    fn followed(form: &Form) -> String {
        let (tokenizer, grammars) = grammars();
        let mut constraint = grammars.constraint(form).expect("it is taken");
        let end = tokenizer.token_id("<eos>").expect("it has it");
        let mut ids = Vec::new();
        for _ in 0..64 {
            let allowed = constraint.allowed().expect("something may come");
            let is_allowed = |id: &u32| allowed[*id as usize / 32] >> (id % 32) & 1 == 1;
            let next = (0..tokenizer.vocabulary_size() as u32)
                .rev()
                .find(is_allowed)
                .expect("a token");
            if next == end {
                break;
            }
            ids.push(next);
            if constraint.push(next) {
                break;
            }
        }
        tokenizer.decode(&ids).expect("it decodes")
    }

    #[test]
    fn a_reply_follows_its_regular_expression() {
        let text = followed(&Form::Regex("(yes|no), [0-9]{3}".to_owned()));
        let (word, digits) = text.split_once(", ").expect("both parts");
        assert!(["yes", "no"].contains(&word), "{text}");
        assert!(
            digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()),
            "{text}"
        );
    }

    #[test]
    fn a_reply_follows_its_schema() {
        let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}},
            "required": ["a"], "additionalProperties": false});
        let text = followed(&Form::JsonSchema(schema));
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        assert!(["x", "y"].contains(&value["a"].as_str().expect("a text")));
    }

    #[test]
    fn what_is_not_a_grammar_is_one_line() {
        let (_, grammars) = grammars();
        for form in [
            Form::Regex("(".to_owned()),
            Form::JsonSchema(json!({"type": "nonsense"})),
            Form::JsonSchema(json!({"$ref": "https://example.com/schema"})),
        ] {
            let problem = grammars.constraint(&form).err().expect("it is refused");
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
        }
    }
}
