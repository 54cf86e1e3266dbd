//! The choice of the next token.

use hlo::{CustomCallOptions, Direction, ElementType, Shape, Value};

use super::lowering::Lowering;
use crate::kernel;

impl Lowering<'_> {
    /// The greedy choice for each row of `logits` [rows, share of the vocabulary]: s32 [rows], the lowest id on ties.
    ///
    /// Over a model axis each device chooses among its own, and the best of these choices is taken: on ties the first device's,
    /// which has the lowest id.
    pub fn greedy(&self, logits: Value) -> hlo::Result<Value> {
        let b = self.b;
        let (best, index) = self.greatest(logits)?;
        let Some(offset) = self.vocabulary_offset()? else {
            return Ok(index);
        };
        let dims = b.dims(index)?;
        let id = b.add(index, b.broadcast_scalar(offset, &dims)?)?;
        let as_row = |x: Value| self.gather_over_model(b.reshape(x, &[1, dims[0]])?, 0);
        let (bests, ids) = (as_row(best)?, as_row(id)?);
        let (_, device) = b.argmax(bests, 0)?;
        // The chosen device's id, picked by a sum in which all others are zero.
        let all_dims = b.dims(ids)?;
        let chosen = b.compare(
            b.iota(ElementType::S32, &all_dims, 0)?,
            b.broadcast(device, &all_dims, &[1])?,
            Direction::Eq,
        )?;
        let zeros = b.full(ElementType::S32, &all_dims, 0.0)?;
        b.reduce_sum(b.select(chosen, ids, zeros)?, &[0])
    }

    /// The greatest of each row of `x` [rows, n], in the compute dtype, and its position: \[rows\], and s32 \[rows\].
    fn greatest(&self, x: Value) -> hlo::Result<(Value, Value)> {
        let b = self.b;
        if !self.has_kernels() {
            return b.argmax(x, 1);
        }
        let rows = b.dims(x)?[0];
        let results = Shape::Tuple(vec![
            Shape::array(self.compute(), &[rows]),
            Shape::array(ElementType::S32, &[rows]),
        ]);
        let both = b.custom_call(kernel::ARGMAX, &[x], results, CustomCallOptions::default())?;
        Ok((b.get_tuple_element(both, 0)?, b.get_tuple_element(both, 1)?))
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

    /// Whether all rows are done, on every device of the mesh: a scalar pred. Devices must leave the decode loop together, since
    /// a collective waits for all of them.
    pub fn all_done(&self, done: Value) -> hlo::Result<Value> {
        self.all_over_data(self.b.reduce_and(done, &[0])?)
    }
}
