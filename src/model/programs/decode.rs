//! The decode loop.

use hlo::{Builder, Direction, ElementType, Module, Value};

use super::super::ModelSpec;
use super::super::cache::LayerCache;
use super::super::lowering::{Lowering, shape};
use super::super::rope::Rotation;
use super::{Entry, donate_caches};

/// Shapes of a [`decode`] program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecodeShape {
    /// Rows of the batch.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
    /// The most steps that one call runs.
    pub chunk: usize,
}

/// Where results of [`decode`] stand before the caches.
pub mod decode_result {
    /// Tokens of all groups of the data axis, s32 [groups · rows, chunk]; columns past the steps run are undefined.
    pub const TOKENS: usize = 0;
    /// Steps run, s32.
    pub const STEPS: usize = 1;
    /// The last token of each row of all groups, s32 [groups · rows].
    pub const LAST: usize = 2;
    /// Rows that have ended, pred \[rows\].
    pub const DONE: usize = 3;
    /// The first of the caches: keys of layer 0, values of layer 0, keys of layer 1, ….
    pub const CACHES: usize = 4;
}

/// Generates greedily, up to `chunk` tokens a row, in a loop on the device.
///
/// Takes `key_mask` s32 [rows, cache] (the prompt's attention mask, then ones), `limit` s32 (steps to run, at
/// most `chunk`), `slot` s32 (the cache slot of the first token), `position` s32 \[rows\] (its position
/// in each row), `token` s32 \[rows\] (the last token of each row, not yet in the caches), `done` pred
/// \[rows\], then per layer keys and values, which are donated. The results are those of
/// [`decode_result`].
///
/// A row that is done goes on as padding; the loop ends early when all rows are done.
///
/// # Errors
/// Shapes that do not fit each other, which a checked configuration cannot make.
pub fn decode(spec: &ModelSpec, dims: DecodeShape) -> hlo::Result<Module> {
    let b = Builder::new("decode");
    let entry = Entry::new(&b, spec, dims.cache)?;
    let s32 = |name: &str, dims: &[usize]| b.parameter(name, shape(ElementType::S32, dims));
    let key_mask = s32("key_mask", &[dims.rows, dims.cache])?;
    let limit = s32("limit", &[])?;
    let slot = s32("slot", &[])?;
    let position = s32("position", &[dims.rows])?;
    let token = s32("token", &[dims.rows])?;
    let done = b.parameter("done", shape(ElementType::Pred, &[dims.rows]))?;
    let caches = Entry::caches(&b, spec, dims.rows, dims.cache)?;

    let tokens = b.full(
        ElementType::S32,
        &[dims.rows as i64, dims.chunk as i64],
        f64::from(spec.config.padding_id()),
    )?;
    let lowering = Lowering::new(&b, spec, &entry.weights);
    let initial = DecodeState {
        finished: lowering.all_done(done)?,
        step: b.scalar(ElementType::S32, 0.0)?,
        limit,
        slot,
        position,
        token,
        done,
        tokens,
        key_mask,
        tables: [entry.sin, entry.cos],
        caches: caches.iter().flat_map(|c| [c.keys, c.values]).collect(),
        weights: entry.weights.clone(),
    };
    let end = b.while_with(
        initial.pack(&b)?,
        |b, state| {
            let state = DecodeState::unpack(b, spec, state)?;
            let in_limit = b.compare(state.step, state.limit, Direction::Lt)?;
            b.and(in_limit, b.not(state.finished)?)
        },
        |b, state| {
            let state = DecodeState::unpack(b, spec, state)?;
            decode_step(b, spec, state)?.pack(b)
        },
    )?;
    let end = DecodeState::unpack(&b, spec, end)?;

    let mut results = vec![
        lowering.gather_over_data(end.tokens)?,
        end.step,
        lowering.gather_over_data(end.token)?,
        end.done,
    ];
    results.extend(end.caches);
    let count = results.len();
    let root = b.tuple(&results)?;
    let mut module = Module::new("decode", b.finish(root)?);
    donate_caches(&mut module, decode_result::CACHES, count)?;
    Ok(module)
}

/// What the decode loop carries; weights and tables go round unchanged, since a loop's body sees nothing
/// but its state.
struct DecodeState {
    /// Whether all rows of all devices are done, a scalar pred.
    finished: Value,
    step: Value,
    limit: Value,
    slot: Value,
    position: Value,
    token: Value,
    done: Value,
    tokens: Value,
    key_mask: Value,
    tables: [Value; 2],
    caches: Vec<Value>,
    weights: Vec<Value>,
}

impl DecodeState {
    fn pack(&self, b: &Builder) -> hlo::Result<Value> {
        let mut parts = vec![
            self.finished,
            self.step,
            self.limit,
            self.slot,
            self.position,
            self.token,
            self.done,
            self.tokens,
            self.key_mask,
        ];
        parts.extend(self.tables);
        parts.extend(&self.caches);
        parts.extend(&self.weights);
        b.tuple(&parts)
    }

    /// Reads what [`pack`](Self::pack) wrote.
    fn unpack(b: &Builder, spec: &ModelSpec, state: Value) -> hlo::Result<Self> {
        const FIXED: usize = 11;
        let caches = spec.config.num_hidden_layers * 2;
        let parts = (0..FIXED + caches + spec.parameters.len())
            .map(|index| b.get_tuple_element(state, index as i64))
            .collect::<hlo::Result<Vec<_>>>()?;
        let (fixed, rest) = parts
            .split_first_chunk::<FIXED>()
            .expect("the vector was made longer than this");
        let [
            finished,
            step,
            limit,
            slot,
            position,
            token,
            done,
            tokens,
            key_mask,
            sin,
            cos,
        ] = *fixed;
        let (caches, weights) = rest.split_at(caches);
        Ok(Self {
            finished,
            step,
            limit,
            slot,
            position,
            token,
            done,
            tokens,
            key_mask,
            tables: [sin, cos],
            caches: caches.to_vec(),
            weights: weights.to_vec(),
        })
    }
}

/// One step: runs each row's last token, writes its keys and values, and chooses the next.
fn decode_step(b: &Builder, spec: &ModelSpec, state: DecodeState) -> hlo::Result<DecodeState> {
    let lowering = Lowering::new(b, spec, &state.weights);
    let rows = b.dims(state.key_mask)?[0];
    let column = |x: Value| b.reshape(x, &[rows, 1]);

    let [sin, cos] = state.tables;
    let rotation: Rotation = lowering.rotation(sin, cos, column(state.position)?)?;

    let mut caches = Vec::with_capacity(state.caches.len());
    let mut x = lowering.embed(column(state.token)?)?;
    for (layer, old) in state.caches.chunks_exact(2).enumerate() {
        x = lowering.block(x, rows as usize, layer, rotation, |token| {
            let cache = LayerCache {
                keys: lowering.update_cache(old[0], token.cache.keys, state.slot)?,
                values: lowering.update_cache(old[1], token.cache.values, state.slot)?,
            };
            caches.extend([cache.keys, cache.values]);
            lowering.attend_cached(token.queries, cache, state.key_mask, state.slot)
        })?;
    }
    let logits = lowering.logits(lowering.rms_norm(x, "model/norm")?)?;
    let chosen = lowering.greedy(logits)?;

    let pad = f64::from(spec.config.padding_id());
    let pads = b.full(ElementType::S32, &[rows], pad)?;
    let token = b.select(state.done, pads, chosen)?;
    let done = b.or(state.done, lowering.is_eos(token)?)?;
    let zero = b.scalar(ElementType::S32, 0.0)?;
    let tokens = b.dynamic_update_slice(state.tokens, column(token)?, &[zero, state.step])?;
    let one = b.scalar(ElementType::S32, 1.0)?;
    Ok(DecodeState {
        finished: lowering.all_done(done)?,
        step: b.add(state.step, one)?,
        slot: b.add(state.slot, one)?,
        position: b.add(state.position, b.full(ElementType::S32, &[rows], 1.0)?)?,
        token,
        done,
        tokens,
        caches,
        ..state
    })
}
