//! Hidden states to logits.

use hlo::{Direction, ElementType, Value};

use super::lowering::Lowering;
use super::parameters::EMBEDDING;

impl Lowering<'_> {
    /// This device's logits of normed hidden states `x` [rows, hidden]: [rows, its share of the vocabulary], rounded to the
    /// compute dtype, as Flax's are: 16-bit logits tie often, and the tie's winner is part of the result. Where the share
    /// is padded, the logits past the vocabulary are −∞.
    pub fn logits(&self, x: Value) -> hlo::Result<Value> {
        let b = self.b;
        let logits = if self.config().tie_word_embeddings {
            self.project(x, self.weight(EMBEDDING)?, 1, self.compute())?
        } else {
            self.dense(x, "lm_head")?
        };
        let Some(offset) = self.vocabulary_offset()? else {
            return Ok(logits);
        };
        let vocabulary = self.config().vocab_size as i64;
        let dims = b.dims(logits)?;
        if dims[1] * self.spec.geometry.mesh.model as i64 == vocabulary {
            return Ok(logits);
        }
        let id = b.add(
            b.iota(ElementType::S32, &dims, 1)?,
            b.broadcast_scalar(offset, &dims)?,
        )?;
        let end = b.full(ElementType::S32, &dims, vocabulary as f64)?;
        let lowest = b.full(self.compute(), &dims, f64::NEG_INFINITY)?;
        b.select(b.compare(id, end, Direction::Lt)?, logits, lowest)
    }

    /// The logits of the whole vocabulary, [rows, vocab], from the devices' shares.
    pub fn whole_logits(&self, share: Value) -> hlo::Result<Value> {
        let b = self.b;
        let gathered = self.gather_over_model(share, 1)?;
        let vocabulary = self.config().vocab_size as i64;
        if b.dims(gathered)?[1] == vocabulary {
            return Ok(gathered);
        }
        b.slice_dim(gathered, 1, 0, vocabulary)
    }
}
