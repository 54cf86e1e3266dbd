//! Token ids to hidden states.

use hlo::Value;

use super::lowering::Lowering;
use super::parameters::EMBEDDING;

impl Lowering<'_> {
    /// Embeds `ids` [batch, length] (s32): rows of the table times √hidden, [batch · length, hidden] in
    /// the compute dtype. The constant is rounded to that dtype before it multiplies, as a Python scalar is
    /// in JAX.
    pub fn embed(&self, ids: Value) -> hlo::Result<Value> {
        let b = self.b;
        let table = self.weight(EMBEDDING)?;
        let ids_dims = b.dims(ids)?;
        let rows = ids_dims.iter().product();
        let flat = b.reshape(ids, &[rows])?;
        let x = b.take_rows(table, flat)?;
        let dims = b.dims(x)?;
        let scale = (self.config().hidden_size as f64).sqrt();
        b.mul(x, b.full(self.compute(), &dims, scale)?)
    }
}
