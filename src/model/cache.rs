//! The key–value cache: per layer two arrays [rows, kv_heads, length, head_dim] in the compute dtype.
//! Length stands beside head_dim so that attention reads each head's keys in one run.

use hlo::{Shape, Value};

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
        spec.compute.into(),
        &[
            rows,
            spec.geometry.key_value_heads,
            length,
            spec.config.head_dim,
        ],
    )
}

impl Lowering<'_> {
    /// Grows what a prefill computed, [batch, kv_heads, prompt, head_dim], to the cache's size with zeros:
    /// [rows, kv_heads, length, head_dim].
    pub fn fill_cache(&self, x: Value, rows: usize, length: usize) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(x)?;
        let high = [rows as i64 - dims[0], 0, length as i64 - dims[2], 0];
        if high == [0; 4] {
            return Ok(x);
        }
        let zero = b.scalar(self.compute(), 0.0)?;
        b.pad(x, zero, &[0; 4], &high, &[0; 4])
    }

    /// Writes one position's keys or values, [rows, kv_heads, 1, head_dim], at `slot` (a scalar s32).
    pub fn update_cache(&self, cache: Value, update: Value, slot: Value) -> hlo::Result<Value> {
        let b = self.b;
        let zero = b.scalar(hlo::ElementType::S32, 0.0)?;
        b.dynamic_update_slice(cache, update, &[zero, zero, slot, zero])
    }
}
