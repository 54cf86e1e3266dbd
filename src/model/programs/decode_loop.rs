//! What loops on the device share: the state that they carry, and one token of every row.

use hlo::Tensor;

use super::super::ModelSpec;
use super::super::greedy::greedy;
use super::super::nn::{
    CachedAttention, Kept, LayerCache, Place, Rotary, Tokens, update_cache, update_rows,
};
use super::super::pass::Pass;
use super::super::ports::Ports;
use super::prompt::rotations;
use super::take_many;

/// The state of a loop: what a step changes or asks, the caches, and what is loop-invariant. A loop's body sees
/// nothing else of the computation around it.
pub(super) struct State<'b, C> {
    pub carried: C,
    pub ropes: Vec<Rotary<Tensor<'b>>>,
    pub caches: Vec<LayerCache<Tensor<'b>>>,
    pub parameters: Vec<Tensor<'b>>,
}

impl<'b, C: Ports<Item = Tensor<'b>>> State<'b, C> {
    pub fn pack(self) -> Vec<Tensor<'b>> {
        let mut all = self.carried.items();
        all.extend(self.ropes.into_iter().flat_map(Ports::items));
        all.extend(self.caches.into_iter().flat_map(Ports::items));
        all.extend(self.parameters);
        all
    }

    /// Reads what [`pack`](Self::pack) wrote of a model.
    pub fn unpack(spec: &ModelSpec, all: Vec<Tensor<'b>>) -> Self {
        let mut all = all.into_iter();
        let gemma = spec.gemma.spec();
        let state = (|| {
            Some(Self {
                carried: C::take(&mut all)?,
                ropes: take_many(&mut all, gemma.ropes.len())?,
                caches: take_many(&mut all, gemma.layers.len())?,
                parameters: all.collect(),
            })
        })();
        state.expect("a loop gives as many values as it was given")
    }
}

/// Runs one token of each row, `token` at `position` (both s32 \[rows\]), through all layers, and writes its keys and values
/// where the rows stand: the greedy next token, s32 \[rows\], and the caches.
pub(super) fn next_token<'b>(
    pass: &Pass<'_, 'b>,
    ropes: &[Rotary<Tensor<'b>>],
    caches: &[LayerCache<Tensor<'b>>],
    [token, position]: [Tensor<'b>; 2],
    place: Place<'b>,
) -> (Tensor<'b>, Vec<LayerCache<Tensor<'b>>>) {
    let gemma = &pass.spec.gemma;
    let rows = token.size(0);
    let column = |x: Tensor<'b>| x.reshape(&[rows, 1]);
    let tokens = Tokens {
        batch: rows as usize,
        rotations: rotations(ropes.to_vec(), column(position)),
    };
    let mut updated = Vec::with_capacity(caches.len());
    let mut x = gemma.embed(pass, column(token));
    for (block, &old) in gemma.layers.iter().zip(caches) {
        x = block.forward(pass, x, &tokens, Kept::All, |attention, new| {
            let cache = match place {
                Place::Shared { slot, .. } => update_cache(pass, old, new.cache, slot),
                Place::Own { slots } => update_rows(pass, old, new.cache, slots),
            };
            updated.push(cache);
            let call = CachedAttention {
                queries: new.queries,
                cache,
                place,
            };
            attention.attend_cached(pass, call)
        });
    }
    let logits = gemma.logits(pass, gemma.final_norm(pass, x));
    (greedy(pass, logits), updated)
}

/// `tokens` [rows, chunk] with `token` \[rows\] in column `step` (s32).
pub(super) fn write_column<'b>(
    tokens: Tensor<'b>,
    token: Tensor<'b>,
    step: Tensor<'b>,
) -> Tensor<'b> {
    let zero = tokens.builder().integer(0);
    tokens.dynamic_update(token.reshape(&[token.size(0), 1]), &[zero, step])
}
