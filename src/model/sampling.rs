//! The choice of the next token.

use hlo::{Direction, ElementType, Value};

use super::lowering::Lowering;

impl Lowering<'_> {
    /// The greedy choice for each row of `logits` [rows, vocab]: s32 [rows], the lowest id on ties.
    pub fn greedy(&self, logits: Value) -> hlo::Result<Value> {
        Ok(self.b.argmax(logits, 1)?.1)
    }

    /// Whether each of `tokens` [rows] (s32) is one of the end-of-sequence ids: pred [rows].
    pub fn is_eos(&self, tokens: Value) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(tokens)?;
        let mut found = b.full(ElementType::Pred, &dims, 0.0)?;
        for &id in &self.config().eos_token_ids {
            let id = b.full(ElementType::S32, &dims, f64::from(id))?;
            found = b.or(found, b.compare(tokens, id, Direction::Eq)?)?;
        }
        Ok(found)
    }
}
