//! The gated MLP (GeGLU, Shazeer 2020) and its activations.

use hlo::{ElementType, Value};

use super::lowering::Lowering;
use crate::config::Activation;

impl Lowering<'_> {
    /// `down(up(x) · act(gate(x)))` for `x` [rows, hidden], all in the compute dtype.
    pub fn mlp(&self, x: Value, layer: usize) -> hlo::Result<Value> {
        let path = |name: &str| format!("model/layers/{layer}/mlp/{name}");
        let up = self.dense(x, &path("up_proj"))?;
        let gate = self.activate(self.dense(x, &path("gate_proj"))?)?;
        self.dense_summed(self.b.mul(up, gate)?, &path("down_proj"))
    }

    /// The configured activation, in the element type of `x`, operation by operation as `jax.nn` has it.
    fn activate(&self, x: Value) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(x)?;
        let element_type = b.element_type(x)?;
        let full = |value: f64| b.full(element_type, &dims, value);
        match self.config().activation {
            // ½x(1 + tanh(√(2/π)(x + 0.044715x³))), Hendrycks and Gimpel 2016.
            Activation::GeluTanh => {
                let cube = b.mul(x, b.mul(x, x)?)?;
                let inner = b.add(x, b.mul(full(0.044715)?, cube)?)?;
                let root = full((2.0 / std::f64::consts::PI).sqrt())?;
                let tanh = b.tanh(b.mul(root, inner)?)?;
                let cdf = b.mul(full(0.5)?, b.add(full(1.0)?, tanh)?)?;
                b.mul(x, cdf)
            }
            // ½x·erfc(−x/√2). erfc(−y) is 1 + erf(y), which HLO has: summed in float32 and then rounded, as a
            // 16-bit erfc is.
            Activation::GeluExact => {
                let y = b.mul(x, full(0.5_f64.sqrt())?)?;
                let erf = b.erf(self.convert(y, ElementType::F32)?)?;
                let erfc = b.add(b.full(ElementType::F32, &dims, 1.0)?, erf)?;
                let half = b.mul(full(0.5)?, x)?;
                b.mul(half, self.convert(erfc, element_type)?)
            }
            Activation::QuickGelu => {
                let gate = b.logistic(b.mul(full(1.702)?, x)?)?;
                b.mul(x, gate)
            }
            Activation::Silu => b.mul(x, b.logistic(x)?),
            Activation::Relu => b.max(x, full(0.0)?),
            Activation::Tanh => b.tanh(x),
        }
    }
}
