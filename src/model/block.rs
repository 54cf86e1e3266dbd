//! One decoder layer: attention and MLP, each behind a norm and added to the residual stream.

use hlo::Value;

use super::cache::LayerCache;
use super::lowering::Lowering;
use super::rope::Rotation;

impl Lowering<'_> {
    /// Runs layer `layer` on `x` [batch · length, hidden].
    ///
    /// `extend` turns the keys and values of these tokens into those to attend over: themselves in a
    /// prefill, the cache with them written into it in a decode step. They are returned with the
    /// new hidden states. `bias` [batch, length, keys] is the additive mask.
    pub fn block(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        rotation: Rotation,
        bias: Value,
        extend: impl FnOnce(LayerCache) -> hlo::Result<LayerCache>,
    ) -> hlo::Result<(Value, LayerCache)> {
        let b = self.b;
        let path = |name: &str| format!("model/layers/{layer}/{name}");

        let normed = self.rms_norm(x, &path("input_layernorm"))?;
        let projected = self.project_attention(normed, batch, layer, rotation)?;
        let cache = extend(projected.cache)?;
        let attended = self.attend(projected.queries, cache, bias)?;
        let x = b.add(x, self.dense_summed(attended, &path("self_attn/o_proj"))?)?;

        let normed = self.rms_norm(x, &path("post_attention_layernorm"))?;
        let x = b.add(x, self.mlp(normed, layer)?)?;
        Ok((x, cache))
    }
}
