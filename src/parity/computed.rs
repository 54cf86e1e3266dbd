//! A reference that another of our own models computes.

use super::facts::facts;
use super::reference::Reference;
use crate::engine::{Error, GenerateOptions, Result};
use crate::source::LoadedModel;

/// The most bytes of logits that a comparison holds of one side.
const MOST_BYTES: u64 = 1 << 32;

impl Reference {
    /// What `model` computes of `prompts`, padded on the left to the longest of them, and
    /// `max_new_tokens` greedy tokens after each, or as many as the model has positions for.
    ///
    /// # Errors
    /// No prompt, prompts that are too long or too many to be compared at once, an id outside of
    /// the vocabulary, a device that fails.
    pub fn computed(
        model: &LoadedModel,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
    ) -> Result<Self> {
        let engine = model.engine();
        let config = &engine.spec().config;
        let batch = prompts.len();
        let length = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let bytes = [batch, length, config.vocab_size(), size_of::<f32>()]
            .iter()
            .try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        if bytes.is_none_or(|bytes| bytes > MOST_BYTES) {
            return Err(Error::Argument {
                argument: "input",
                problem: format!(
                    "{batch} prompts of up to {length} tokens have more than {} GiB of logits, \
                     which are compared at once; take fewer or shorter prompts",
                    MOST_BYTES >> 30
                ),
            });
        }
        if batch == 0 {
            return Err(Error::Argument {
                argument: "input",
                problem: "there is no prompt to compare".to_owned(),
            });
        }
        let positions = config.max_position_embeddings();
        let new = max_new_tokens.min(positions.saturating_sub(length));
        let options = GenerateOptions {
            max_new_tokens: new,
            batch_size: batch,
            ..GenerateOptions::default()
        };
        // Before the forward pass: it names the prompt that cannot be run.
        let generations = engine.generate(prompts, &options)?;

        let pad = config.padding_id() as i32;
        let mut reference = Reference {
            file: model.origin().folder.clone(),
            batch,
            length,
            metadata: facts(model),
            ..Reference::default()
        };
        let mut sequences = Vec::with_capacity(batch * (length + new));
        for generation in &generations {
            let prompt = &prompts[generation.index];
            let padding = length - prompt.len();
            let begin = reference.input_ids.len();
            reference.input_ids.resize(begin + padding, pad);
            reference.attention_mask.resize(begin + padding, 0);
            reference
                .input_ids
                .extend(prompt.iter().map(|&id| id as i32));
            reference.attention_mask.resize(begin + length, 1);
            sequences.extend_from_slice(&reference.input_ids[begin..]);
            sequences.extend(generation.token_ids.iter().map(|&id| id as i32));
            sequences.resize((begin / length + 1) * (length + new), pad);
        }
        let forward = engine.forward(
            batch,
            length,
            &reference.input_ids,
            &reference.attention_mask,
        )?;
        reference.logits = Some((config.vocab_size(), forward.logits));
        reference.hidden_states = Some((config.hidden_size(), forward.hidden_states));
        reference.sequences = Some((length + new, sequences));
        Ok(reference)
    }
}
