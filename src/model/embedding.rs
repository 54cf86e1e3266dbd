//! Token ids to hidden states.

use hlo::{ArrayShape, CustomCallOptions, Direction, Value};

use super::lowering::Lowering;
use super::parameters::EMBEDDING;
use crate::kernel;

impl Lowering<'_> {
    /// Embeds `ids` [batch, length] (s32): rows of the table times √hidden, [batch · length, hidden] in
    /// the compute dtype. The constant is rounded to that dtype before it multiplies, as a Python scalar is
    /// in JAX.
    pub fn embed(&self, ids: Value) -> hlo::Result<Value> {
        let b = self.b;
        let rows = b.dims(ids)?.iter().product();
        let x = self.rows_of_table(b.reshape(ids, &[rows])?)?;
        let dims = b.dims(x)?;
        let scale = (self.config().hidden_size as f64).sqrt();
        b.mul(x, b.full(self.compute(), &dims, scale)?)
    }

    /// The table's rows for `ids` [rows]: [rows, hidden]. Over a model axis, the device that holds a row gives it and the
    /// others give zeros, so the sum over devices is the row to the bit.
    fn rows_of_table(&self, ids: Value) -> hlo::Result<Value> {
        let b = self.b;
        let table = self.weight(EMBEDDING)?;
        let Some(offset) = self.vocabulary_offset()? else {
            return self.take_rows(table, ids);
        };
        let ids_dims = b.dims(ids)?;
        let local = b.sub(ids, b.broadcast_scalar(offset, &ids_dims)?)?;
        let x = self.take_rows(table, local)?;
        let share = b.dims(table)?[0];
        let zeros = b.full(hlo::ElementType::S32, &ids_dims, 0.0)?;
        let end = b.full(hlo::ElementType::S32, &ids_dims, share as f64)?;
        let held = b.and(
            b.compare(local, zeros, Direction::Ge)?,
            b.compare(local, end, Direction::Lt)?,
        )?;
        let dims = b.dims(x)?;
        let held = b.broadcast(held, &dims, &[0])?;
        let own = b.select(held, x, b.full(self.compute(), &dims, 0.0)?)?;
        self.sum_over_model(own)
    }

    /// Rows `ids` [n] of a table: [n, width].
    fn take_rows(&self, table: Value, ids: Value) -> hlo::Result<Value> {
        let b = self.b;
        if !self.spec.device.kernels {
            return b.take_rows(table, ids);
        }
        let dims = [b.dims(ids)?[0], b.dims(table)?[1]];
        let result = ArrayShape::new(b.element_type(table)?, &dims);
        let options = CustomCallOptions::default();
        b.custom_call(kernel::TAKE_ROWS, &[table, ids], result, options)
    }
}
