//! Hidden states to logits.

use hlo::Value;

use super::lowering::Lowering;
use super::parameters::EMBEDDING;

impl Lowering<'_> {
    /// Logits [rows, vocab] of normed hidden states `x` [rows, hidden], rounded to the compute dtype, as
    /// Flax's are: 16-bit logits tie often, and the tie's winner is part of the result.
    pub fn logits(&self, x: Value) -> hlo::Result<Value> {
        if self.config().tie_word_embeddings {
            let x = self.convert(x, self.compute())?;
            self.project(x, self.weight(EMBEDDING)?, 1)
        } else {
            self.dense(x, "lm_head")
        }
    }
}
