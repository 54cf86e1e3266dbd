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
        let normed = self.attention_norm(x, layer)?;
        let tokens = Projected {
            queries: self.project_queries(normed, batch, layer, rotation)?,
            cache: self.project_cache(normed, batch, layer, rotation)?,
        };
        self.add_branches(x, attend(tokens)?, layer)
    }

    /// The same where only the `kept` last tokens of each row are wanted, as after the last layer of a prompt: [batch · kept,
    /// hidden]. All tokens give keys and values; only these ask, and go through the MLP.
    pub fn last_block(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        rotation: Rotation,
        kept: usize,
        attend: impl FnOnce(Projected) -> hlo::Result<Value>,
    ) -> hlo::Result<Value> {
        let normed = self.attention_norm(x, layer)?;
        let cache = self.project_cache(normed, batch, layer, rotation)?;
        let normed = self.last_tokens(normed, batch, kept)?;
        let rotation = self.last_positions(rotation, kept)?;
        let tokens = Projected {
            queries: self.project_queries(normed, batch, layer, rotation)?,
            cache,
        };
        self.add_branches(self.last_tokens(x, batch, kept)?, attend(tokens)?, layer)
    }

    fn attention_norm(&self, x: Value, layer: usize) -> hlo::Result<Value> {
        self.rms_norm(x, &format!("model/layers/{layer}/input_layernorm"))
    }

    /// Adds what attention found, behind its projection, and then the MLP's branch to `x`.
    fn add_branches(&self, x: Value, attended: Value, layer: usize) -> hlo::Result<Value> {
        let b = self.b;
        let path = |name: &str| format!("model/layers/{layer}/{name}");
        let x = b.add(x, self.dense_summed(attended, &path("self_attn/o_proj"))?)?;
        let normed = self.rms_norm(x, &path("post_attention_layernorm"))?;
        b.add(x, self.mlp(normed, layer)?)
    }

    /// The `kept` last tokens of each row of `x` [batch · length, width]: [batch · kept, width].
    pub fn last_tokens(&self, x: Value, batch: usize, kept: usize) -> hlo::Result<Value> {
        let b = self.b;
        let (batch, kept) = (batch as i64, kept as i64);
        let dims = b.dims(x)?;
        let (length, width) = (dims[0] / batch, dims[1]);
        let x = b.reshape(x, &[batch, length, width])?;
        let x = b.slice_dim(x, 1, length - kept, length)?;
        b.reshape(x, &[batch * kept, width])
    }
}
