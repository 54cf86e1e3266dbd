//! Batch greedy generation: what is asked for, what comes out, and the batches in turn.

use std::time::Duration;

use super::batch::BatchRun;
use super::{Engine, Error, Result};

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions {
    /// New tokens a prompt at most, at least 1.
    pub max_new_tokens: usize,
    /// Prompts that are run together, at least 1.
    pub batch_size: usize,
    /// Whether tokens are wanted as they come.
    pub stream: bool,
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It produced an end-of-sequence token.
    Eos,
    /// It reached the most new tokens allowed.
    Length,
}

impl FinishReason {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Eos => "eos",
            FinishReason::Length => "length",
        }
    }
}

/// What one prompt became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The prompt's place in the input, from 0.
    pub index: usize,
    /// New tokens, the end-of-sequence token included, no padding.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Who is told what happens during [`Engine::generate`].
pub trait Observer {
    /// New tokens of a row that is not finished, when they are streamed.
    fn tokens(&mut self, _index: usize, _new: &[u32]) {}
    /// A finished row; rows come in the order of the prompts.
    fn finished(&mut self, generation: Generation);
    /// Whether to stop; asked between calls of the device.
    fn interrupted(&self) -> bool {
        false
    }
    /// A batch's prompts have run, in `took`, from the prompts on the host to the first tokens on the host.
    fn prefilled(&mut self, _took: Duration) {}
    /// A call of the decode loop has run `steps` steps in `took`, tokens to and from the host included.
    fn decoded(&mut self, _steps: usize, _took: Duration) {}
    /// Fewer new tokens than asked for can follow a prompt, since positions end.
    fn shortened(&mut self, _index: usize, _to: usize) {}
}

/// What a whole generation did.
#[derive(Clone, Copy, Debug, Default)]
pub struct GenerateSummary {
    /// New tokens over all finished rows.
    pub new_tokens: usize,
    /// Decode steps run.
    pub steps: usize,
    /// Whether it was interrupted before all rows were finished.
    pub interrupted: bool,
}

impl Engine {
    /// Generates greedily after each prompt, in batches, and tells `observer` of each result in order.
    ///
    /// # Errors
    /// An empty prompt, one that is too long, an id outside of the vocabulary (all checked before anything
    /// runs), or a device that fails.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        observer: &mut dyn Observer,
    ) -> Result<GenerateSummary> {
        for (option, value) in [
            ("--max-new-tokens", options.max_new_tokens),
            ("--batch-size", options.batch_size),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(Error::Option {
                    option,
                    problem: format!("{value} is not between 1 and {}", i32::MAX),
                });
            }
        }
        self.check_prompts(prompts)?;
        let positions = self.spec.config.max_position_embeddings;
        for (index, prompt) in prompts.iter().enumerate() {
            let room = positions - prompt.len();
            if room < options.max_new_tokens {
                observer.shortened(index, room);
            }
        }
        let mut summary = GenerateSummary::default();
        for (number, batch) in prompts.chunks(options.batch_size).enumerate() {
            if observer.interrupted() {
                summary.interrupted = true;
                break;
            }
            // A short last batch runs in the program of the full ones.
            let size = options.batch_size.min(prompts.len());
            let mut run = BatchRun::new(self, batch, size, number * options.batch_size, options);
            run.run(observer, &mut summary)?;
        }
        Ok(summary)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let config = &self.spec.config;
        for (index, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::EmptyPrompt { index });
            }
            if prompt.len() >= config.max_position_embeddings {
                return Err(Error::PromptTooLong {
                    index,
                    tokens: prompt.len(),
                    limit: config.max_position_embeddings,
                });
            }
            if let Some(&id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
                return Err(Error::TokenOutOfRange {
                    index,
                    id,
                    vocab_size: config.vocab_size,
                });
            }
        }
        Ok(())
    }
}
