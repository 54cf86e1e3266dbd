//! Grouped-query attention over keys and values that lie as the cache holds them.

use hlo::{DotDims, ElementType, Tensor};

use super::super::parameters::{Part, Scope};
use super::super::pass::Pass;
use super::super::spec::{AttentionSpec, GemmaSpec};
use super::cache::{LayerCache, in_compute_dtype};
use super::linear::Linear;
use super::mask::{is_token, mask_bias, within};
use super::norm::RmsNorm;
use super::ring::RingView;
use super::rope::Rotation;
use crate::dtype::DType;
use crate::sharding::Axis;

/// The projections of a layer's attention.
#[derive(Clone, Debug)]
pub struct Attention {
    spec: AttentionSpec,
    q_proj: Linear,
    k_proj: Option<Linear>,
    v_proj: Option<Linear>,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    v_norm: Option<RmsNorm>,
}

/// Queries, keys and values of one layer, after the rotation.
#[derive(Clone, Copy)]
pub struct Projected<'b> {
    /// [batch, length, heads, head_dim].
    pub queries: Tensor<'b>,
    /// Keys and values, [batch, kv_heads, length, head_dim]; none of a layer that uses another's.
    pub cache: Option<LayerCache<Tensor<'b>>>,
}

const NAME: &str = "self_attn";

impl Attention {
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        gemma: &GemmaSpec,
        spec: &AttentionSpec,
    ) -> Self {
        let scope = scope.child(NAME, "attn");
        let hidden = gemma.hidden;
        let head = Axis::whole("head", "head_dim", spec.head_dim);
        let own = !spec.shares_cache;
        let head_norm = |name, deepmind: &[&str], there: bool| {
            let norm = || RmsNorm::new(&scope, name, head, gemma.norm, deepmind);
            there.then(norm)
        };
        let (queries, keys) = (spec.queries, spec.key_values);
        let linear =
            |name, axes, deepmind: &[_]| Linear::new(&scope, name, axes, spec.bias, deepmind);
        // DeepMind fuses q, k and v where there are as many key and value heads as query heads.
        let fused = |part| ("qkv_einsum/w", Part::of("3 n d h", "d (n h)", part));
        let pair = |part| ("kv_einsum/w", Part::of("2 k d h", "d (k h)", part));
        Self {
            q_proj: linear(
                "q_proj",
                [hidden, queries],
                &[("q_einsum/w", Part::whole("n d h", "d (n h)")), fused(0)],
            ),
            k_proj: own.then(|| {
                let alone = ("k_einsum/w", Part::whole("k d h", "d (k h)"));
                linear("k_proj", [hidden, keys], &[pair(0), fused(1), alone])
            }),
            v_proj: (own && !spec.keys_as_values)
                .then(|| linear("v_proj", [hidden, keys], &[pair(1), fused(2)])),
            o_proj: linear(
                "o_proj",
                [queries, hidden],
                &[("attn_vec_einsum/w", Part::whole("n h d", "(n h) d"))],
            ),
            q_norm: head_norm("q_norm", &["_query_norm", "query_norm"], spec.head_norms),
            k_norm: head_norm("k_norm", &["_key_norm", "key_norm"], own && spec.head_norms),
            v_norm: spec
                .value_norm
                .then(|| RmsNorm::unweighted("v_norm", gemma.norm)),
            spec: spec.clone(),
        }
    }

    /// What it is made from.
    pub fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// The queries of `x` [batch · length, hidden], rotated: [batch, length, heads, head_dim].
    pub fn queries<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        x: Tensor<'b>,
        batch: usize,
        rotations: &[Rotation<'b>],
    ) -> Tensor<'b> {
        pass.scoped(NAME, || {
            let queries = self.q_proj.forward(pass, x);
            let queries = self.split_heads(pass, queries, batch, self.spec.queries);
            let queries = normed(&self.q_norm, pass, queries);
            rotations[self.spec.rope].rotate(pass, queries)
        })
    }

    /// The keys of `x` [batch · length, hidden], rotated, and its values: [batch, kv_heads, length,
    /// head_dim]. None where the layer uses the cache of another.
    pub fn key_values<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        x: Tensor<'b>,
        batch: usize,
        rotations: &[Rotation<'b>],
    ) -> Option<LayerCache<Tensor<'b>>> {
        let k_proj = self.k_proj.as_ref()?;
        Some(pass.scoped(NAME, || {
            let heads = |x| self.split_heads(pass, x, batch, self.spec.key_values);
            let keys = heads(k_proj.forward(pass, x));
            let values = match &self.v_proj {
                Some(v_proj) => heads(v_proj.forward(pass, x)),
                None => keys,
            };
            let keys = normed(&self.k_norm, pass, keys);
            let values = normed(&self.v_norm, pass, values);
            let heads_first = |x: Tensor<'b>| x.transpose(&[0, 2, 1, 3]);
            LayerCache {
                keys: heads_first(rotations[self.spec.rope].rotate(pass, keys)),
                values: heads_first(values),
            }
        }))
    }

    fn split_heads<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        y: Tensor<'b>,
        batch: usize,
        heads: Axis,
    ) -> Tensor<'b> {
        let (batch, heads) = (batch as i64, heads.units_on_device(pass.spec.mesh) as i64);
        let length = y.size(0) / batch;
        y.reshape(&[batch, length, heads, self.spec.head_dim as i64])
    }

    /// What the queries of whole prompts or parts of them find, [batch · length, heads · head_dim]:
    /// `queries` [batch, length, heads, head_dim] over `cache` [batch, kv_heads, keys, head_dim]
    /// under `bias` [batch, length, keys] (float32), which is 0 where a key is seen.
    pub fn attend<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        queries: Tensor<'b>,
        cache: LayerCache<Tensor<'b>>,
        bias: Tensor<'b>,
    ) -> Tensor<'b> {
        pass.scoped(NAME, || self.heads(pass).attend(queries, cache, bias))
    }

    /// What one token a row finds in the caches: [rows, heads · head_dim].
    pub fn attend_cached<'b>(&self, pass: &Pass<'_, 'b>, call: CachedAttention<'b>) -> Tensor<'b> {
        pass.scoped(NAME, || pass.ops.attend_cached(&self.heads(pass), call))
    }

    /// What the heads found, [rows, heads · head_dim], behind the output projection: [rows,
    /// hidden].
    pub fn output<'b>(&self, pass: &Pass<'_, 'b>, attended: Tensor<'b>) -> Tensor<'b> {
        pass.scoped(NAME, || self.o_proj.forward(pass, attended))
    }

    fn heads(&self, pass: &Pass<'_, '_>) -> Heads {
        Heads {
            score_divisor: self.spec.score_divisor_squared.sqrt(),
            score_cap: self.spec.score_cap,
            window: self.spec.window,
            compute: pass.dtype(),
        }
    }
}

/// `x` behind a norm, where there is one.
fn normed<'b>(norm: &Option<RmsNorm>, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
    match norm {
        Some(norm) => norm.forward(pass, x),
        None => x,
    }
}

/// The arithmetic of attention between the projections.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// What scores are divided by.
    pub score_divisor: f64,
    /// Scores become `cap · tanh(score / cap)` after that.
    pub score_cap: Option<f64>,
    /// A token sees itself and so many less one before it.
    pub window: Option<usize>,
    /// The compute dtype.
    pub compute: DType,
}

/// Attention of one token a row.
#[derive(Clone, Copy)]
pub struct CachedAttention<'b> {
    /// [rows, 1, heads, head_dim].
    pub queries: Tensor<'b>,
    /// [rows, kv_heads, slots, head_dim], as caches are kept.
    pub cache: LayerCache<Tensor<'b>>,
    /// The slots that rows see where the cache has one for every place.
    pub place: Place<'b>,
    /// Those that they see where the cache is a ring.
    pub ring: Option<RingView<'b>>,
}

/// Where the rows of a decode step stand in the caches.
#[derive(Clone, Copy)]
pub enum Place<'b> {
    /// Prompts are padded on the left, so that all rows are at the same slot.
    Shared {
        /// The slot, s32.
        slot: Tensor<'b>,
        /// The slots that hold tokens, s32 [rows, slots]: 1, or 0 for padding.
        key_mask: Tensor<'b>,
    },
    /// Prompts begin in the first slot, and each row is at a slot of its own.
    Own {
        /// The slots, s32 \[rows\].
        slots: Tensor<'b>,
    },
}

impl<'b> Place<'b> {
    /// The place of each row's token, s32 \[rows\].
    pub fn of_rows(self, rows: i64) -> Tensor<'b> {
        match self {
            Place::Shared { slot, .. } => slot.broadcast(&[rows], &[]),
            Place::Own { slots } => slots,
        }
    }
}

impl Heads {
    /// [`Ops::attend_cached`](super::super::Ops::attend_cached) by XLA, in dots of at least
    /// `query_rows` rows for each key and value head.
    pub fn attend_cached<'b>(&self, call: CachedAttention<'b>, query_rows: usize) -> Tensor<'b> {
        let [rows, _, slots, _] = call.cache.keys.sizes();
        let visible = match call.ring {
            Some(ring) => is_token(ring.seen),
            None => self.visible(call.place, [rows, slots]),
        };
        let bias = mask_bias(visible.reshape(&[rows, 1, slots]), self.compute);
        let cache = in_compute_dtype(call.cache, self.compute.into());
        self.attend_in_rows(call.queries, cache, bias, query_rows)
    }

    /// The slots that rows see, pred [rows, slots].
    fn visible<'b>(&self, place: Place<'b>, dims: [i64; 2]) -> Tensor<'b> {
        let b = match place {
            Place::Shared { slot, .. } | Place::Own { slots: slot } => slot.builder(),
        };
        let slot = b.indices(&dims, 1);
        let last = match place {
            Place::Shared { slot: last, .. } => last.everywhere_in(slot),
            Place::Own { slots: last } => last.broadcast(&dims, &[0]),
        };
        let visible = match place {
            Place::Shared { key_mask, .. } => slot.at_most(last) & is_token(key_mask),
            Place::Own { .. } => slot.at_most(last),
        };
        within(self.window, last, slot, visible)
    }

    /// Attention as below, in dots of as many rows as there are queries.
    pub fn attend<'b>(
        &self,
        queries: Tensor<'b>,
        cache: LayerCache<Tensor<'b>>,
        bias: Tensor<'b>,
    ) -> Tensor<'b> {
        self.attend_in_rows(queries, cache, bias, 1)
    }

    /// Attention of `queries` [batch, length, heads, head_dim] over `cache` [batch, kv_heads, keys,
    /// head_dim] under `bias` [batch, length, keys] (float32): [batch · length, heads · head_dim]
    /// in the compute dtype, before the output projection.
    ///
    /// The query heads that share a kv head become rows of one dot, so keys and values are never
    /// repeated. Where there are fewer rows than `query_rows`, heads of zeros follow, whose results
    /// are dropped.
    fn attend_in_rows<'b>(
        &self,
        queries: Tensor<'b>,
        cache: LayerCache<Tensor<'b>>,
        bias: Tensor<'b>,
        query_rows: usize,
    ) -> Tensor<'b> {
        let [batch, length, heads, head_dim] = queries.sizes();
        let [_, kv_heads, keys, _] = cache.keys.sizes();
        let wanted = heads / kv_heads;
        let group = wanted.max((query_rows as i64 + length - 1) / length);

        let q = queries
            .reshape(&[batch, length, kv_heads, wanted, head_dim])
            .transpose(&[0, 2, 3, 1, 4]);
        let q = match group - wanted {
            0 => q,
            more => q.pad_high(&[0, 0, more, 0, 0]),
        };
        let q = q.reshape(&[batch, kv_heads, group * length, head_dim]);
        let by_token = [batch, kv_heads, group, length, keys];
        let scores = self.scores(q, cache.keys).reshape(&by_token);
        let scores = match self.score_cap {
            Some(cap) => cap * (scores / cap).tanh(),
            None => scores,
        };
        let weights = softmax(scores + bias.broadcast(&by_token, &[0, 3, 4]))
            .convert(self.compute.into())
            .reshape(&[batch, kv_heads, group * length, keys]);

        let over_keys = DotDims {
            lhs_batch: vec![0, 1],
            rhs_batch: vec![0, 1],
            lhs_contracting: vec![3],
            rhs_contracting: vec![2],
        };
        let mixed = weights
            .dot(cache.values, over_keys, ElementType::F32)
            .convert(self.compute.into())
            .reshape(&[batch, kv_heads, group, length, head_dim]);
        let mixed = match group - wanted {
            0 => mixed,
            _ => mixed.slice(2, 0, wanted),
        };
        mixed
            .transpose(&[0, 3, 1, 2, 4])
            .reshape(&[batch * length, heads * head_dim])
    }

    /// Scaled scores `q · kᵀ / divisor`, [batch, kv_heads, rows, keys] in float32.
    ///
    /// Flax casts both to float32 and divides the queries. In 16 bits the products are exact in
    /// float32 either way, and dividing the sum instead leaves keys as they are; where the divisor
    /// is a power of two it is the same to the bit.
    fn scores<'b>(&self, q: Tensor<'b>, keys: Tensor<'b>) -> Tensor<'b> {
        let dims = DotDims {
            lhs_batch: vec![0, 1],
            rhs_batch: vec![0, 1],
            lhs_contracting: vec![3],
            rhs_contracting: vec![3],
        };
        match self.compute {
            DType::F32 => (q / self.score_divisor).dot(keys, dims, ElementType::F32),
            DType::F16 | DType::BF16 => q.dot(keys, dims, ElementType::F32) / self.score_divisor,
        }
    }
}

/// Softmax over the last dimension, shifted by the maximum.
fn softmax(x: Tensor<'_>) -> Tensor<'_> {
    let dims = x.dims();
    let last = dims.len() as i64 - 1;
    let kept: Vec<i64> = (0..last).collect();
    let max = x.greatest(&[last]);
    let exp = (x - max.broadcast(&dims, &kept)).exp();
    exp / exp.sum(&[last]).broadcast(&dims, &kept)
}
