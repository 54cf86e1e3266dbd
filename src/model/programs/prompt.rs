//! Whole prompts in one pass: the prefill, and the forward pass for comparing.

use hlo::{Builder, ElementType, Module, Value};

use super::super::ModelSpec;
use super::super::cache::LayerCache;
use super::super::lowering::{Lowering, shape};
use super::super::rope::Rotation;
use super::Entry;

/// Shapes of a [`prefill`] program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefillShape {
    /// Prompts.
    pub batch: usize,
    /// Tokens in each, padding included.
    pub prompt: usize,
    /// Rows of the caches, at least `batch`; those past it are zero.
    pub rows: usize,
    /// Length of the caches, at least `prompt`; slots past it are zero.
    pub cache: usize,
}

/// Runs left-padded prompts and fills the caches.
///
/// Takes `input_ids` s32 [batch, prompt] and `attention_mask` s32 [batch, prompt]. Gives the greedy next
/// token of all groups of the data axis, s32 [groups · batch], then per layer keys and values.
///
/// # Errors
/// Shapes that do not fit each other, which a checked configuration cannot make.
pub fn prefill(spec: &ModelSpec, dims: PrefillShape) -> hlo::Result<Module> {
    let b = Builder::new("prefill");
    let entry = Entry::new(&b, spec, dims.cache)?;
    let lowering = Lowering::new(&b, spec, &entry.weights);
    let prompt_shape = shape(ElementType::S32, &[dims.batch, dims.prompt]);
    let ids = b.parameter("input_ids", prompt_shape.clone())?;
    let mask = b.parameter("attention_mask", prompt_shape)?;

    let prompt = Prompt::new(&lowering, &entry, mask)?;
    let mut caches = Vec::new();
    let x = lowering.embed(ids)?;
    let token = next_token(&lowering, x, dims.batch, prompt, |_, cache| {
        caches.push(lowering.fill_cache(cache.keys, dims.rows, dims.cache)?);
        caches.push(lowering.fill_cache(cache.values, dims.rows, dims.cache)?);
        Ok(cache)
    })?;
    let mut results = vec![lowering.gather_over_data(token)?];
    results.extend(caches);
    let root = b.tuple(&results)?;
    Ok(Module::new("prefill", b.finish(root)?))
}

/// The whole forward pass, for comparing with another implementation.
///
/// Takes `input_ids` and `attention_mask`, s32 [batch, length]. Gives logits [batch, length, vocab], then
/// the hidden states: the embedding's output, each layer's, and the final norm's in place of the
/// last layer's, each [batch, length, hidden]; all of all groups of the data axis, one after another. All are float32 holding values of the compute dtype.
///
/// # Errors
/// Shapes that do not fit each other, which a checked configuration cannot make.
pub fn forward(spec: &ModelSpec, batch: usize, length: usize) -> hlo::Result<Module> {
    let b = Builder::new("forward");
    let entry = Entry::new(&b, spec, length)?;
    let lowering = Lowering::for_comparing(&b, spec, &entry.weights);
    let prompt_shape = shape(ElementType::S32, &[batch, length]);
    let ids = b.parameter("input_ids", prompt_shape.clone())?;
    let mask = b.parameter("attention_mask", prompt_shape)?;
    let wide = |x: Value| {
        let width = b.dims(x)?[1];
        let x = lowering.convert(x, ElementType::F32)?;
        let x = b.reshape(x, &[batch as i64, length as i64, width])?;
        lowering.gather_over_data(x)
    };

    let prompt = Prompt::new(&lowering, &entry, mask)?;
    let mut hidden_states = Vec::new();
    let mut x = lowering.embed(ids)?;
    for layer in 0..spec.config.num_hidden_layers {
        hidden_states.push(wide(x)?);
        x = lowering.block(x, batch, layer, prompt.rotation, |tokens| {
            lowering.attend(tokens.queries, tokens.cache, prompt.bias)
        })?;
    }
    let normed = lowering.rms_norm(x, "model/norm")?;
    hidden_states.push(wide(normed)?);
    let logits = lowering.whole_logits(lowering.logits(normed)?)?;
    let mut results = vec![wide(logits)?];
    results.extend(hidden_states);
    let root = b.tuple(&results)?;
    Ok(Module::new("forward", b.finish(root)?))
}

/// Where the tokens of prompts stand and what they see.
#[derive(Clone, Copy)]
pub(super) struct Prompt {
    /// Of each token's position.
    pub rotation: Rotation,
    /// The additive mask, [batch, length, keys] in float32.
    pub bias: Value,
}

impl Prompt {
    /// Whole prompts, of whose tokens `mask` [batch, length] (s32) says which are no padding.
    fn new(lowering: &Lowering<'_>, entry: &Entry, mask: Value) -> hlo::Result<Self> {
        let b = lowering.b;
        let one = b.full(ElementType::S32, &b.dims(mask)?, 1.0)?;
        let positions = b.sub(b.cumsum(mask, 1)?, one)?;
        Ok(Self {
            rotation: lowering.rotation(entry.sin, entry.cos, positions)?,
            bias: lowering.mask_bias(lowering.causal_mask(mask)?)?,
        })
    }
}

/// Runs all layers on embedded tokens `x` [batch · length, hidden]: the greedy next token of each row, s32 \[batch\].
///
/// `extend` turns each layer's new keys and values into those to attend over. After the last layer's only the last token of a row
/// is gone on with, or the last few where the device would rather have more rows.
pub(super) fn next_token(
    lowering: &Lowering<'_>,
    mut x: Value,
    batch: usize,
    prompt: Prompt,
    mut extend: impl FnMut(usize, LayerCache) -> hlo::Result<LayerCache>,
) -> hlo::Result<Value> {
    let b = lowering.b;
    let Prompt { rotation, bias } = prompt;
    let bias_dims = b.dims(bias)?;
    let length = bias_dims[1];
    let kept = lowering
        .spec
        .decode_rows(batch)
        .div_ceil(batch)
        .min(length as usize);
    let last_layer = lowering.config().num_hidden_layers - 1;
    for layer in 0..last_layer {
        x = lowering.block(x, batch, layer, rotation, |tokens| {
            lowering.attend(tokens.queries, extend(layer, tokens.cache)?, bias)
        })?;
    }
    x = lowering.last_block(x, batch, last_layer, rotation, kept, |tokens| {
        let bias = b.slice_dim(bias, 1, length - kept as i64, length)?;
        lowering.attend(tokens.queries, extend(last_layer, tokens.cache)?, bias)
    })?;
    let logits = lowering.logits(lowering.rms_norm(x, "model/norm")?)?;
    let tokens = lowering.greedy(logits)?;
    let tokens = b.reshape(tokens, &[batch as i64, kept as i64])?;
    let tokens = b.slice_dim(tokens, 1, kept as i64 - 1, kept as i64)?;
    b.reshape(tokens, &[batch as i64])
}
