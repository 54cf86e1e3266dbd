//! A part of long prompts, after what the caches hold already.

use hlo::{Builder, Direction, ElementType, Module, Value};

use super::super::ModelSpec;
use super::super::cache::LayerCache;
use super::super::lowering::{Lowering, shape};
use super::prompt::{Prompt, next_token};
use super::{Entry, donate_caches};

/// Shapes of an [`extend`] program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtendShape {
    /// Prompts.
    pub batch: usize,
    /// Tokens of each that are run, padding included.
    pub chunk: usize,
    /// Rows of the caches, at least `batch`.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
}

/// Runs the next `chunk` tokens of left-padded prompts, the first of which [`prefill`](super::prefill) has run. With it, memory for
/// scores grows with the length of a prompt instead of its square, and that of a layer's inner values not at all.
///
/// Takes `input_ids` s32 [batch, chunk], `position` s32 [batch, chunk] (that of each token in its prompt; anything for padding),
/// `key_mask` s32 [batch, cache] (the prompts' attention mask; anything past them), `slot` s32 (the cache slot of the first of these tokens), then
/// per layer keys and values, which are donated. Gives the greedy next token of all groups of the data axis, s32 [groups · batch], then the caches.
///
/// # Errors
/// Shapes that do not fit each other, which a checked configuration cannot make.
pub fn extend(spec: &ModelSpec, dims: ExtendShape) -> hlo::Result<Module> {
    let b = Builder::new("extend");
    let entry = Entry::new(&b, spec, dims.cache)?;
    let lowering = Lowering::new(&b, spec, &entry.weights);
    let s32 = |name: &str, dims: &[usize]| b.parameter(name, shape(ElementType::S32, dims));
    let ids = s32("input_ids", &[dims.batch, dims.chunk])?;
    let position = s32("position", &[dims.batch, dims.chunk])?;
    let key_mask = s32("key_mask", &[dims.batch, dims.cache])?;
    let slot = s32("slot", &[])?;
    let caches = Entry::caches(&b, spec, dims.rows, dims.cache)?;

    let prompt = Prompt {
        rotation: lowering.rotation(entry.sin, entry.cos, position)?,
        bias: lowering.mask_bias(visible(&b, dims, key_mask, slot)?)?,
    };
    let mut extended = Vec::new();
    let x = lowering.embed(ids)?;
    let token = next_token(&lowering, x, dims.batch, prompt, |layer, tokens| {
        let keys = lowering.update_cache(caches[layer].keys, tokens.keys, slot)?;
        let values = lowering.update_cache(caches[layer].values, tokens.values, slot)?;
        extended.extend([keys, values]);
        let of_batch = |x: Value| b.slice_dim(x, 0, 0, dims.batch as i64);
        lowering.cached_in_compute_dtype(LayerCache {
            keys: of_batch(keys)?,
            values: of_batch(values)?,
        })
    })?;
    let mut results = vec![lowering.gather_over_data(token)?];
    results.extend(extended);
    let count = results.len();
    let root = b.tuple(&results)?;
    let mut module = Module::new("extend", b.finish(root)?);
    donate_caches(&mut module, 1, count)?;
    Ok(module)
}

/// Which slots of the cache each token sees, [batch, chunk, cache] (pred): those up to its own that hold no padding.
fn visible(b: &Builder, dims: ExtendShape, key_mask: Value, slot: Value) -> hlo::Result<Value> {
    let mask_dims = b.dims(key_mask)?;
    let dims = [dims.batch as i64, dims.chunk as i64, dims.cache as i64];
    let query = b.iota(ElementType::S32, &dims, 1)?;
    let own = b.add(query, b.broadcast_scalar(slot, &dims)?)?;
    let key = b.iota(ElementType::S32, &dims, 2)?;
    let causal = b.compare(key, own, Direction::Le)?;
    let zeros = b.full(ElementType::S32, &mask_dims, 0.0)?;
    let token = b.compare(key_mask, zeros, Direction::Gt)?;
    b.and(causal, b.broadcast(token, &dims, &[0, 2])?)
}
