//! The key–value cache: per layer two arrays [rows, kv_heads, length, head_dim] in [`ModelSpec::cache_type`].
//! Length stands beside head_dim so that attention reads each head's keys in one run.

use hlo::{ElementType, Shape, Value};

use super::ModelSpec;
use super::lowering::{Lowering, shape};

/// Keys and values of one layer.
#[derive(Clone, Copy)]
pub(super) struct LayerCache {
    pub keys: Value,
    pub values: Value,
}

/// The shape of a layer's keys, and of its values.
pub(super) fn cache_shape(spec: &ModelSpec, rows: usize, length: usize) -> Shape {
    shape(
        spec.cache_type(),
        &[
            rows,
            spec.geometry.key_value_heads,
            length,
            spec.config.head_dim,
        ],
    )
}

impl Lowering<'_> {
    /// Keys or values, computed in the compute dtype, as the cache keeps them.
    fn as_cached(&self, x: Value) -> hlo::Result<Value> {
        self.same_bits(x, self.spec.cache_type())
    }

    /// Keys or values of the cache in the compute dtype.
    pub fn cached_in_compute_dtype(&self, cache: LayerCache) -> hlo::Result<LayerCache> {
        Ok(LayerCache {
            keys: self.same_bits(cache.keys, self.compute())?,
            values: self.same_bits(cache.values, self.compute())?,
        })
    }

    fn same_bits(&self, x: Value, to: ElementType) -> hlo::Result<Value> {
        if self.b.element_type(x)? == to {
            Ok(x)
        } else {
            self.b.bitcast_convert(x, to)
        }
    }

    /// Grows what a prefill computed, [batch, kv_heads, prompt, head_dim], to the cache's size with zeros:
    /// [rows, kv_heads, length, head_dim].
    pub fn fill_cache(&self, x: Value, rows: usize, length: usize) -> hlo::Result<Value> {
        let b = self.b;
        let x = self.as_cached(x)?;
        let dims = b.dims(x)?;
        let high = [rows as i64 - dims[0], 0, length as i64 - dims[2], 0];
        if high == [0; 4] {
            return Ok(x);
        }
        let zero = b.scalar(self.spec.cache_type(), 0.0)?;
        b.pad(x, zero, &[0; 4], &high, &[0; 4])
    }

    /// Writes one position's keys or values, [rows, kv_heads, 1, head_dim], at `slot` (a scalar s32).
    pub fn update_cache(&self, cache: Value, update: Value, slot: Value) -> hlo::Result<Value> {
        let b = self.b;
        let zero = b.scalar(ElementType::S32, 0.0)?;
        let update = self.as_cached(update)?;
        b.dynamic_update_slice(cache, update, &[zero, zero, slot, zero])
    }
}
