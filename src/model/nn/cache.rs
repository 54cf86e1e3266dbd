//! The key–value cache: per layer two arrays [rows, kv_heads, length, head_dim] in the element type
//! that the device's operations keep caches in. Length stands beside head_dim so that attention
//! reads each head's keys in one run.

use hlo::Tensor;

use super::super::pass::Pass;
use super::super::ports::ports;

ports! {
    /// Keys and values of one layer.
    #[derive(Copy)]
    pub struct LayerCache {
        /// Keys, after norm and rotation.
        keys,
        /// Values.
        values,
    }
}

/// Keys or values, computed in the compute dtype, as the cache keeps them.
pub(super) fn as_cached<'b>(pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
    x.bits_as(pass.ops.cache_type(pass.dtype()))
}

/// Keys and values of the cache in the compute dtype.
pub fn in_compute_dtype<'b>(
    cache: LayerCache<Tensor<'b>>,
    compute: hlo::ElementType,
) -> LayerCache<Tensor<'b>> {
    cache.map(|_, x| x.bits_as(compute))
}

/// Writes new keys and values, [rows, kv_heads, tokens, head_dim], into the cache from `slot` (a
/// scalar s32) on.
pub fn update_cache<'b>(
    pass: &Pass<'_, 'b>,
    cache: LayerCache<Tensor<'b>>,
    new: LayerCache<Tensor<'b>>,
    slot: Tensor<'b>,
) -> LayerCache<Tensor<'b>> {
    update_row(pass, cache, new, pass.b.integer(0), slot)
}

/// The same into the rows from `row` (a scalar s32) on.
pub fn update_row<'b>(
    pass: &Pass<'_, 'b>,
    cache: LayerCache<Tensor<'b>>,
    new: LayerCache<Tensor<'b>>,
    row: Tensor<'b>,
    slot: Tensor<'b>,
) -> LayerCache<Tensor<'b>> {
    pass.scoped("cache", || {
        let zero = pass.b.integer(0);
        let write = |into: Tensor<'b>, new| {
            into.dynamic_update(as_cached(pass, new), &[row, zero, slot, zero])
        };
        LayerCache {
            keys: write(cache.keys, new.keys),
            values: write(cache.values, new.values),
        }
    })
}

/// Writes one token's keys and values a row, [rows, kv_heads, 1, head_dim], each at the row's own
/// slot (s32 \[rows\]).
pub fn update_rows<'b>(
    pass: &Pass<'_, 'b>,
    cache: LayerCache<Tensor<'b>>,
    new: LayerCache<Tensor<'b>>,
    slots: Tensor<'b>,
) -> LayerCache<Tensor<'b>> {
    pass.scoped("cache", || {
        let zero = pass.b.integer(0);
        let write = |into: Tensor<'b>, new| {
            let new = as_cached(pass, new);
            (0..slots.size(0)).fold(into, |into, row| {
                let slot = slots.slice(0, row, row + 1).reshape(&[]);
                let starts = [pass.b.integer(row), zero, slot, zero];
                into.dynamic_update(new.slice(0, row, row + 1), &starts)
            })
        };
        LayerCache {
            keys: write(cache.keys, new.keys),
            values: write(cache.values, new.values),
        }
    })
}
