//! One decoder layer: attention and MLP, each behind a norm and added to the residual stream.

use hlo::Value;

use super::attention::Projected;
use super::lowering::Lowering;
use super::rope::Rotation;

impl Lowering<'_> {
    /// Runs layer `layer` on `x` [batch · length, hidden].
    ///
    /// `attend` gets queries, keys and values of these tokens and gives what the queries find, [batch · length, heads · head_dim]:
    /// among these tokens in a prefill, in the cache with them written into it in a decode step.
    pub fn block(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        rotation: Rotation,
        attend: impl FnOnce(Projected) -> hlo::Result<Value>,
    ) -> hlo::Result<Value> {
        let b = self.b;
        let path = |name: &str| format!("model/layers/{layer}/{name}");

        let normed = self.rms_norm(x, &path("input_layernorm"))?;
        let attended = attend(self.project_attention(normed, batch, layer, rotation)?)?;
        let x = b.add(x, self.dense_summed(attended, &path("self_attn/o_proj"))?)?;

        let normed = self.rms_norm(x, &path("post_attention_layernorm"))?;
        b.add(x, self.mlp(normed, layer)?)
    }
}
