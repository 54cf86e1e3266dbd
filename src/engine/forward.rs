//! The whole forward pass on given ids, for comparison with another implementation.

use super::{Engine, Error, ProgramKey, Result};

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
        let config = &self.spec.config;
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
        if length > config.max_position_embeddings {
            return Err(Error::PromptTooLong {
                index: 0,
                tokens: length,
                limit: config.max_position_embeddings,
            });
        }
        for (at, &id) in input_ids.iter().enumerate() {
            if usize::try_from(id).map_or(true, |id| id >= config.vocab_size) {
                return Err(Error::TokenOutOfRange {
                    index: at / length,
                    id: id as u32,
                    vocab_size: config.vocab_size,
                });
            }
        }
        // Every group of the data axis takes as many rows; those past the batch repeat the last one.
        let mesh = self.spec.geometry.mesh;
        let rows = batch.div_ceil(mesh.data);
        let padded = |values: &[i32]| {
            let mut values = values.to_vec();
            let last = values.split_off(values.len() - length);
            values.extend(last.repeat(rows * mesh.data - batch + 1));
            values
        };
        let program = self.program(ProgramKey::Forward {
            batch: rows,
            length,
        })?;
        let dims = [rows as i64, length as i64];
        let ids = self.devices.upload_rows_s32(&padded(input_ids), &dims)?;
        let mask = self
            .devices
            .upload_rows_s32(&padded(attention_mask), &dims)?;
        let results = self.run(&program, &[&ids, &mask])?;
        let expected = config.num_hidden_layers + 2;
        if results.len() != expected {
            return Err(Error::UnexpectedResult {
                program: "forward",
                expected: format!("{expected} arrays"),
                found: format!("{}", results.len()),
            });
        }
        let mut arrays = results
            .iter()
            .map(|buffers| {
                let mut rows_of_all = self.devices.read(buffers, |b| Ok(b.to_vec_f32()?))?;
                rows_of_all.truncate(rows_of_all.len() / (rows * mesh.data) * batch);
                Ok(rows_of_all)
            })
            .collect::<Result<Vec<_>>>()?;
        let hidden_states = arrays.split_off(1);
        Ok(ForwardOutput {
            logits: arrays.pop().unwrap_or_default(),
            hidden_states,
        })
    }
}
