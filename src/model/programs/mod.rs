//! The programs that the engine runs, and the order of their arguments and results.
//!
//! Over a mesh every device runs the same program on its own rows and its own share of the parameters; shapes here are
//! those of one device. Every program takes the model's parameters first, in the order of [`ModelSpec::parameters`], then the
//! two tables of [`RopeTables`](super::RopeTables), then what its own function names.

mod decode;
mod extend;
mod prompt;

pub use decode::{DecodeShape, decode, decode_result};
pub use extend::{ExtendShape, extend};
pub use prompt::{PrefillShape, forward, prefill};

use hlo::{AliasKind, Builder, ElementType, Module, Value};

use super::ModelSpec;
use super::cache::{LayerCache, cache_shape};
use super::lowering::shape;

/// The arguments that every program begins with.
struct Entry {
    weights: Vec<Value>,
    sin: Value,
    cos: Value,
}

impl Entry {
    fn new(b: &Builder, spec: &ModelSpec, positions: usize) -> hlo::Result<Self> {
        let weights = spec
            .parameters
            .iter()
            .map(|p| {
                b.parameter(
                    &p.name,
                    p.device_shape(&spec.geometry, spec.device.kernel_layout),
                )
            })
            .collect::<hlo::Result<Vec<_>>>()?;
        let table = shape(ElementType::F32, &[positions, spec.config.head_dim / 2]);
        Ok(Self {
            weights,
            sin: b.parameter("rope.sin", table.clone())?,
            cos: b.parameter("rope.cos", table)?,
        })
    }

    /// The caches of all layers, [rows, kv_heads, length, head_dim], as the parameters that follow: keys of layer 0, values of
    /// layer 0, keys of layer 1, ….
    fn caches(
        b: &Builder,
        spec: &ModelSpec,
        rows: usize,
        length: usize,
    ) -> hlo::Result<Vec<LayerCache>> {
        let parameter = |layer: usize, part: &str| {
            let name = format!("cache.{layer}.{part}");
            b.parameter(&name, cache_shape(spec, rows, length))
        };
        (0..spec.config.num_hidden_layers)
            .map(|layer| {
                Ok(LayerCache {
                    keys: parameter(layer, "keys")?,
                    values: parameter(layer, "values")?,
                })
            })
            .collect()
    }
}

/// Lets results from `first` on, all there are, take the place of the parameters that come last: the caches are donated.
fn donate_caches(module: &mut Module, first: usize, results: usize) -> hlo::Result<()> {
    let parameters = module.parameters().len();
    for result in first..results {
        let parameter = parameters - (results - result);
        module.alias(&[result as i64], parameter as i64, &[], AliasKind::May)?;
    }
    Ok(())
}
