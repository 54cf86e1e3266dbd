//! A model on its devices, with its tokenizer: text in, text out.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::reply::ReplyText;
use crate::engine::{Engine, Error, Event, FinishReason, GenerateOptions, Result, TokenLogprob};
use crate::sampling::StopStrings;
use crate::tokenizer::Tokenizer;

/// What ends a turn in Gemma's own templates.
const END_OF_TURN: &str = "<end_of_turn>";

/// A model whose parameters are on devices.
pub struct LoadedModel {
    engine: Engine,
    tokenizer: Option<Tokenizer>,
    origin: Origin,
}

/// The files that a model was loaded from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The model's folder.
    pub folder: PathBuf,
    /// The format of its checkpoint, the names of the first files, and their bytes, in words.
    pub checkpoint: String,
    /// The dtypes that its parameters are stored in, in words.
    pub dtypes: String,
}

/// A prompt and what the model made of it; displayed, it is the whole text.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The prompt.
    pub prompt: String,
    /// The text that follows the prompt, up to a stop text.
    pub text: String,
    /// Which of the prompt's replies it is, from 0.
    pub sequence: usize,
    /// The new tokens, the end-of-sequence token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Of each new token, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prompt, self.text)
    }
}

impl LoadedModel {
    pub(super) fn new(engine: Engine, tokenizer: Option<Tokenizer>, origin: Origin) -> Self {
        Self {
            engine,
            tokenizer,
            origin,
        }
    }

    /// The files that it was loaded from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What runs on token ids.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its tokenizer, where the model's folder has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The token that ends a turn of a conversation, where the tokenizer has one. It ends a reply,
    /// whether or not the model's configuration lists it.
    pub fn end_of_turn(&self) -> Option<u32> {
        let tokenizer = self.tokenizer.as_ref()?;
        match tokenizer.encode_rendered(END_OF_TURN).ok()?.as_slice() {
            &[id] => Some(id),
            _ => None,
        }
    }

    /// Continues each prompt, greedily unless `options.sampling` says otherwise; completions are in
    /// the order of the prompts. For tokens as they come, and for stopping, see
    /// [`Engine::generate_with`].
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
        let stops = StopStrings::new(&options.sampling.stop)?;
        let mut options = options.clone();
        options.watch |= !options.sampling.stop.is_empty();
        let mut texts: BTreeMap<(usize, usize), (ReplyText<'_>, String)> = BTreeMap::new();
        let mut completions = Vec::with_capacity(prompts.len());
        let mut take = |event: Event<'_>| -> Result<()> {
            match event {
                Event::Tokens {
                    index,
                    sequence,
                    new,
                    stop,
                } => {
                    let begin = || {
                        let text = ReplyText::new(tokenizer, &ids[index], &stops);
                        (text, String::new())
                    };
                    let (reply, text) = texts.entry((index, sequence)).or_insert_with(begin);
                    let added = reply.push(new)?;
                    text.push_str(&added.text);
                    if let Some(count) = added.stopped {
                        stop.after(count);
                    }
                }
                Event::Finished(generation) => {
                    let index = generation.index;
                    let (reply, mut text) = match texts.remove(&(index, generation.sequence)) {
                        Some(told) => told,
                        None => {
                            let mut reply = ReplyText::new(tokenizer, &ids[index], &stops);
                            let text = reply.push(&generation.token_ids)?.text;
                            (reply, text)
                        }
                    };
                    let end = reply.finish()?;
                    text.push_str(&end.text);
                    completions.push(Completion {
                        prompt: prompts[index].as_ref().to_owned(),
                        text,
                        sequence: generation.sequence,
                        token_ids: generation.token_ids,
                        finish_reason: match end.stopped {
                            Some(_) => FinishReason::Stop,
                            None => generation.finish_reason,
                        },
                        logprobs: generation.logprobs,
                    });
                }
                _ => {}
            }
            Ok(())
        };
        let (_, flow) = self
            .engine
            .generate_with(&ids, &options, |event| match take(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            })?;
        match flow {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(completions),
        }
    }
}
