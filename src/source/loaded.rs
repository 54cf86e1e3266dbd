//! A model on its devices, with its tokenizer: text in, text out.

use std::fmt;

use crate::engine::{Engine, Error, FinishReason, GenerateOptions, Result};
use crate::tokenizer::Tokenizer;

/// A model whose parameters are on devices.
pub struct LoadedModel {
    engine: Engine,
    tokenizer: Option<Tokenizer>,
}

/// A prompt and what the model made of it; displayed, it is the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The prompt.
    pub prompt: String,
    /// The text that follows the prompt.
    pub text: String,
    /// The new tokens, the end-of-sequence token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prompt, self.text)
    }
}

impl LoadedModel {
    pub(super) fn new(engine: Engine, tokenizer: Option<Tokenizer>) -> Self {
        Self { engine, tokenizer }
    }

    /// What runs on token ids.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its tokenizer, where the model's folder has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Continues each prompt greedily; completions are in the order of the prompts. For tokens as
    /// they come, and for stopping, see [`Engine::generate_with`].
    ///
    /// # Errors
    /// A model without a tokenizer, a text that it cannot encode, and as [`Engine::generate`].
    pub fn generate<P: AsRef<str>>(
        &self,
        prompts: impl IntoIterator<Item = P>,
        options: &GenerateOptions,
    ) -> Result<Vec<Completion>> {
        let tokenizer = self.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
        let prompts: Vec<P> = prompts.into_iter().collect();
        let ids = prompts
            .iter()
            .map(|prompt| Ok(tokenizer.encode(prompt.as_ref())?))
            .collect::<Result<Vec<_>>>()?;
        let generations = self.engine.generate(&ids, options)?;
        generations
            .into_iter()
            .map(|generation| {
                let index = generation.index;
                let text = tokenizer.decode_continuation(&ids[index], &generation.token_ids)?;
                Ok(Completion {
                    prompt: prompts[index].as_ref().to_owned(),
                    text,
                    token_ids: generation.token_ids,
                    finish_reason: generation.finish_reason,
                })
            })
            .collect()
    }
}
