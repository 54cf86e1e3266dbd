//! The text of a reply, piece by piece, up to a stop text.

use crate::sampling::{StopMatcher, StopStrings};
use crate::tokenizer::{Error, TextStream, Tokenizer};

/// Decodes the tokens of one reply as they come, and ends it at a stop text.
///
/// The pieces are whole characters, and what may be the beginning of a stop text is held back. A
/// token costs the same however long the reply is.
pub struct ReplyText<'a> {
    stream: TextStream<'a>,
    matcher: StopMatcher,
}

/// What tokens added to a reply's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// The text.
    pub text: String,
    /// Where a stop text ended the reply: with how many of the tokens.
    pub stopped: Option<usize>,
}

impl<'a> ReplyText<'a> {
    /// The reply to a prompt of these tokens.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stop: &StopStrings) -> Self {
        Self {
            stream: tokenizer.stream(prompt),
            matcher: stop.matcher(),
        }
    }

    /// Takes the next tokens. After a stop text there are none.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn push(&mut self, tokens: &[u32]) -> Result<Added, Error> {
        let mut added = Added::default();
        for (index, token) in tokens.iter().enumerate() {
            let piece = self.stream.push(std::slice::from_ref(token))?;
            let released = self.matcher.push(&piece);
            added.text.push_str(&released.text);
            if released.stopped.is_some() {
                added.stopped = Some(index + 1);
                break;
            }
        }
        Ok(added)
    }

    /// Ends the reply: the text that was held back, and whether a stop text was in it.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn finish(mut self) -> Result<Added, Error> {
        if self.matcher.stopped().is_some() {
            return Ok(Added::default());
        }
        let piece = self.stream.finish()?;
        let released = self.matcher.push(&piece);
        Ok(match released.stopped {
            Some(_) => Added {
                text: released.text,
                stopped: Some(0),
            },
            None => Added {
                text: released.text + &self.matcher.finish(),
                stopped: None,
            },
        })
    }
}
