//! Grouped-query attention over keys and values that lie as the cache holds them.

use hlo::{ArrayShape, CustomCallOptions, Direction, DotDims, ElementType, Value};

use super::cache::LayerCache;
use super::lowering::Lowering;
use super::rope::Rotation;
use crate::dtype::DType;
use crate::kernel;

/// Queries, keys and values of one layer, after the rotation.
pub(super) struct Projected {
    /// [batch, length, heads, head_dim].
    pub queries: Value,
    /// Keys and values, [batch, kv_heads, length, head_dim].
    pub cache: LayerCache,
}

impl Lowering<'_> {
    /// The queries of `x` [batch · length, hidden], rotated: [batch, length, heads, head_dim].
    pub fn project_queries(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        rotation: Rotation,
    ) -> hlo::Result<Value> {
        let heads = self.spec.geometry.heads;
        self.rotate(
            self.project_heads(x, batch, layer, "q_proj", heads)?,
            rotation,
        )
    }

    /// The keys of `x` [batch · length, hidden], rotated, and its values: [batch, kv_heads, length, head_dim].
    pub fn project_cache(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        rotation: Rotation,
    ) -> hlo::Result<LayerCache> {
        let heads = self.spec.geometry.key_value_heads;
        let keys = self.project_heads(x, batch, layer, "k_proj", heads)?;
        let values = self.project_heads(x, batch, layer, "v_proj", heads)?;
        let heads_first = |x: Value| self.b.transpose(x, &[0, 2, 1, 3]);
        Ok(LayerCache {
            keys: heads_first(self.rotate(keys, rotation)?)?,
            values: heads_first(values)?,
        })
    }

    fn project_heads(
        &self,
        x: Value,
        batch: usize,
        layer: usize,
        name: &str,
        heads: usize,
    ) -> hlo::Result<Value> {
        let y = self.dense(x, &format!("model/layers/{layer}/self_attn/{name}"))?;
        let (batch, head_dim) = (batch as i64, self.config().head_dim as i64);
        let length = self.b.dims(x)?[0] / batch;
        self.b.reshape(y, &[batch, length, heads as i64, head_dim])
    }

    /// Attention of one token a row: `queries` [rows, 1, heads, head_dim] over the slots of `cache` [rows, kv_heads, slots, head_dim] up
    /// to `slot` (s32) that `key_mask` [rows, slots] (s32) shows: [rows, heads · head_dim].
    pub fn attend_cached(
        &self,
        queries: Value,
        cache: LayerCache,
        key_mask: Value,
        slot: Value,
    ) -> hlo::Result<Value> {
        let b = self.b;
        let (q_dims, k_dims) = (b.dims(queries)?, b.dims(cache.keys)?);
        let (rows, heads, head_dim) = (q_dims[0], q_dims[2], q_dims[3]);
        if self.has_kernels() {
            let dims = [rows, k_dims[1], heads / k_dims[1], head_dim];
            let queries = b.reshape(queries, &dims)?;
            let operands = [queries, cache.keys, cache.values, key_mask, slot];
            let result = ArrayShape::new(self.compute(), &dims);
            let options = CustomCallOptions::default();
            let attended = b.custom_call(kernel::ATTENTION, &operands, result, options)?;
            return b.reshape(attended, &[rows, heads * head_dim]);
        }
        let key_dims = b.dims(key_mask)?;
        let key = b.iota(ElementType::S32, &key_dims, 1)?;
        let slots = b.broadcast_scalar(slot, &key_dims)?;
        let written = b.compare(key, slots, Direction::Le)?;
        let zeros = b.full(ElementType::S32, &key_dims, 0.0)?;
        let visible = b.and(written, b.compare(key_mask, zeros, Direction::Gt)?)?;
        let bias = self.mask_bias(b.reshape(visible, &[rows, 1, key_dims[1]])?)?;
        self.attend(queries, self.cached_in_compute_dtype(cache)?, bias)
    }

    /// Attention of `queries` [batch, length, heads, head_dim] over `cache` [batch, kv_heads, keys, head_dim]
    /// under `bias` [batch, length, keys] (float32): [batch · length, heads · head_dim] in the compute
    /// dtype, before the output projection.
    ///
    /// The query heads that share a kv head become rows of one dot, so keys and values are never
    /// repeated.
    pub fn attend(&self, queries: Value, cache: LayerCache, bias: Value) -> hlo::Result<Value> {
        let b = self.b;
        let q_dims = b.dims(queries)?;
        let (batch, length, heads, head_dim) = (q_dims[0], q_dims[1], q_dims[2], q_dims[3]);
        let k_dims = b.dims(cache.keys)?;
        let (kv_heads, keys) = (k_dims[1], k_dims[2]);
        let group = heads / kv_heads;

        let q = b.reshape(queries, &[batch, length, kv_heads, group, head_dim])?;
        let q = b.transpose(q, &[0, 2, 3, 1, 4])?;
        let q = b.reshape(q, &[batch, kv_heads, group * length, head_dim])?;

        let scores = self.scores(q, cache.keys, head_dim)?;
        let dims = [batch, kv_heads, group, length, keys];
        let scores = b.reshape(scores, &dims)?;
        let scores = b.add(scores, b.broadcast(bias, &dims, &[0, 3, 4])?)?;
        let weights = self.convert(self.softmax(scores)?, self.compute())?;
        let weights = b.reshape(weights, &[batch, kv_heads, group * length, keys])?;

        let mixed = self.dot(
            weights,
            cache.values,
            DotDims {
                lhs_batch: vec![0, 1],
                rhs_batch: vec![0, 1],
                lhs_contracting: vec![3],
                rhs_contracting: vec![2],
            },
        )?;
        let mixed = self.convert(mixed, self.compute())?;
        let mixed = b.reshape(mixed, &[batch, kv_heads, group, length, head_dim])?;
        let mixed = b.transpose(mixed, &[0, 3, 1, 2, 4])?;
        b.reshape(mixed, &[batch * length, heads * head_dim])
    }

    /// Scaled scores `q · kᵀ / √head_dim`, [batch, kv_heads, rows, keys] in float32.
    ///
    /// Flax casts both to float32 and divides the queries. In 16 bits the products are exact in
    /// float32 either way, and dividing the sum instead leaves keys as they are; where √head_dim is a power of
    /// two it is the same to the bit.
    fn scores(&self, q: Value, keys: Value, head_dim: i64) -> hlo::Result<Value> {
        let b = self.b;
        let dims = DotDims {
            lhs_batch: vec![0, 1],
            rhs_batch: vec![0, 1],
            lhs_contracting: vec![3],
            rhs_contracting: vec![3],
        };
        let divided = |x: Value| {
            let root = b.full(ElementType::F32, &b.dims(x)?, (head_dim as f64).sqrt())?;
            b.div(x, root)
        };
        match self.spec.compute {
            DType::F32 => self.dot(divided(q)?, keys, dims),
            DType::F16 | DType::BF16 => divided(self.dot(q, keys, dims)?),
        }
    }

    /// Softmax over the last dimension, shifted by the maximum.
    fn softmax(&self, x: Value) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(x)?;
        let last = dims.len() as i64 - 1;
        let kept: Vec<i64> = (0..last).collect();
        let max = b.reduce_max(x, &[last])?;
        let exp = b.exp(b.sub(x, b.broadcast(max, &dims, &kept)?)?)?;
        let sum = b.reduce_sum(exp, &[last])?;
        b.div(exp, b.broadcast(sum, &dims, &kept)?)
    }

    /// The additive bias of a mask (pred): 0 where it holds, else the lowest finite value of the compute
    /// dtype, in float32.
    pub fn mask_bias(&self, mask: Value) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(mask)?;
        let lowest = match self.spec.compute {
            DType::F32 => f32::MIN,
            DType::F16 => half::f16::MIN.to_f32(),
            DType::BF16 => half::bf16::MIN.to_f32(),
        };
        b.select(
            mask,
            b.full(ElementType::F32, &dims, 0.0)?,
            b.full(ElementType::F32, &dims, f64::from(lowest))?,
        )
    }

    /// The mask of a whole prompt, [batch, length, length] (pred): a query sees the keys that are not
    /// padding and not after it. `attention_mask` [batch, length] is s32, 1 for a token and 0 for padding.
    pub fn causal_mask(&self, attention_mask: Value) -> hlo::Result<Value> {
        let b = self.b;
        let mask_dims = b.dims(attention_mask)?;
        let dims = [mask_dims[0], mask_dims[1], mask_dims[1]];
        let query = b.iota(ElementType::S32, &dims, 1)?;
        let key = b.iota(ElementType::S32, &dims, 2)?;
        let causal = b.compare(query, key, Direction::Ge)?;
        let zeros = b.full(ElementType::S32, &mask_dims, 0.0)?;
        let token = b.compare(attention_mask, zeros, Direction::Gt)?;
        b.and(causal, b.broadcast(token, &dims, &[0, 2])?)
    }
}
