//! RMSNorm (Zhang and Sennrich, 2019) with Gemma's `1 + weight`.

use hlo::{ElementType, Value};

use super::lowering::Lowering;

impl Lowering<'_> {
    /// Normalises `x` [rows, hidden] with the weight at `path`.
    ///
    /// `(1 + w) · cast(x / √(mean(x²) + eps))`: mean, root and division in float32, the cast to the compute
    /// dtype, the sum in the weight's own dtype. A float32 weight makes the result float32 even where
    /// the compute dtype has 16 bits.
    pub fn rms_norm(&self, x: Value, path: &str) -> hlo::Result<Value> {
        let b = self.b;
        let weight = self.weight(&format!("{path}/weight"))?;
        let dims = b.dims(x)?;
        let (rows, hidden) = (dims[0], dims[1]);

        let x = self.convert(x, ElementType::F32)?;
        let sum = b.reduce_sum(b.mul(x, x)?, &[1])?;
        let mean = b.div(sum, b.full(ElementType::F32, &[rows], hidden as f64)?)?;
        let eps = b.full(ElementType::F32, &[rows], self.config().rms_norm_eps)?;
        let root = b.sqrt(b.add(mean, eps)?)?;
        let normed = b.div(x, b.broadcast(root, &dims, &[0])?)?;
        let normed = self.convert(normed, self.compute())?;

        let weight_type = b.element_type(weight)?;
        let scale = b.add(b.full(weight_type, &[hidden], 1.0)?, weight)?;
        let result_type = if weight_type == self.compute() {
            weight_type
        } else {
            // Two different float types promote to float32.
            ElementType::F32
        };
        let scale = self.convert(scale, result_type)?;
        b.mul(
            b.broadcast(scale, &dims, &[1])?,
            self.convert(normed, result_type)?,
        )
    }
}
