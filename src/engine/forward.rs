//! The whole forward pass on given ids, for comparison with another implementation.

use super::core::Engine;
use super::error::{Error, Result};
use crate::model::ChoiceInputs;
use crate::model::programs::{Forward, PromptInputs};

/// Logits and hidden states of a batch, row-major float32.
#[derive(Clone, Debug)]
pub struct ForwardOutput {
    /// [batch, length, vocab].
    pub logits: Vec<f32>,
    /// The embedding's output, each layer's, and the final norm's in place of the last layer's:
    /// layers + 1 arrays [batch, length, hidden].
    pub hidden_states: Vec<Vec<f32>>,
}

impl Engine {
    /// Runs `input_ids` and `attention_mask`, both [batch, length] row-major.
    ///
    /// # Errors
    /// Sizes that do not fit each other, an id outside of the vocabulary, more tokens than
    /// `max_position_embeddings`, a device that fails.
    pub fn forward(
        &self,
        batch: usize,
        length: usize,
        input_ids: &[i32],
        attention_mask: &[i32],
    ) -> Result<ForwardOutput> {
        let config = &self.spec().config;
        let sizes_fit = batch.checked_mul(length) == Some(input_ids.len())
            && input_ids.len() == attention_mask.len()
            && !input_ids.is_empty();
        if !sizes_fit {
            return Err(Error::InputShape {
                batch,
                length,
                ids: input_ids.len(),
                mask: attention_mask.len(),
            });
        }
        if length > config.max_position_embeddings() {
            return Err(Error::PromptTooLong {
                index: 0,
                tokens: length,
                limit: config.max_position_embeddings(),
            });
        }
        for (at, &id) in input_ids.iter().enumerate() {
            if usize::try_from(id).map_or(true, |id| id >= config.vocab_size()) {
                return Err(Error::TokenOutOfRange {
                    index: at / length,
                    id: id as u32,
                    vocab_size: config.vocab_size(),
                });
            }
        }
        // Every group of the data axis takes as many rows; those past the batch repeat the last
        // one.
        let mesh = self.spec().mesh;
        let rows = batch.div_ceil(mesh.data);
        let padded = |values: &[i32]| {
            let mut values = values.to_vec();
            let last = values.split_off(values.len() - length);
            values.extend(last.repeat(rows * mesh.data - batch + 1));
            values
        };
        let program = self.ready(Forward {
            batch: rows,
            length,
        })?;
        let devices = self.devices();
        let dims = [rows as i64, length as i64];
        let inputs = PromptInputs {
            input_ids: devices.upload_rows_s32(&padded(input_ids), &dims)?,
            attention_mask: devices.upload_rows_s32(&padded(attention_mask), &dims)?,
        };
        let choice = ChoiceInputs::default();
        let results = self.call(&program, inputs.as_ref(), choice, &[])?.results;
        let read = |buffers| {
            let mut rows_of_all = devices.read(buffers, |b| Ok(b.to_vec_f32()?))?;
            rows_of_all.truncate(rows_of_all.len() / (rows * mesh.data) * batch);
            Ok(rows_of_all)
        };
        let states = results.hidden_states.iter();
        Ok(ForwardOutput {
            logits: read(&results.logits)?,
            hidden_states: states.map(read).collect::<Result<_>>()?,
        })
    }
}
