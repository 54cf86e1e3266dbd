//! What the programs that run prompts share.

use hlo::Tensor;

use super::super::choice::{Choice, ChoiceInputs, ChoiceResults, Choosing, choose_once};
use super::super::greedy::greedy;
use super::super::nn::{
    Block, Kept, LayerCache, Masks, Ring, Rotary, Rotation, Stream, Tokens, in_compute_dtype,
    update_cache, update_row,
};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::super::spec::AttentionSpec;

ports! {
    /// What a program that runs prompts gives.
    pub struct PromptResults {
        /// The next token of all groups of the data axis, s32 [groups · batch].
        token,
    }
}

/// Prompts or parts of them: where their tokens stand and what they see.
pub(super) struct Prompt<'b> {
    /// The tokens.
    pub tokens: Tokens<'b>,
    /// Tokens that are run of each prompt, padding included.
    pub length: usize,
    /// What they see.
    pub masks: Masks<'b>,
    /// Which token of each row is the last of its prompt: the last one of the row, or the one at
    /// this index (s32).
    pub last: Option<Tensor<'b>>,
}

/// The rotations of tokens at `positions` [batch, length] (s32), one a kind of rotary embedding.
pub(super) fn rotations<'b>(
    ropes: Vec<Rotary<Tensor<'b>>>,
    positions: Tensor<'b>,
) -> Vec<Rotation<'b>> {
    let tables = ropes.into_iter();
    tables.map(|table| Rotation::at(table, positions)).collect()
}

impl<'b> Prompt<'b> {
    /// Runs all layers on embedded tokens: the next token of each row, s32 \[batch\], of all groups
    /// of the data axis, and what is reported of it.
    ///
    /// `extend` turns a layer's new keys and values into those to attend over, which layers that
    /// share its cache do too. After the last layer's that has any, only the last token of a row
    /// continues, or the last few where the device would rather have more rows.
    pub fn next_token(
        &self,
        pass: &Pass<'_, 'b>,
        stream: Stream<'b>,
        (choosing, choice): (Choosing, ChoiceInputs<Tensor<'b>>),
        extend: impl FnMut(&AttentionSpec, LayerCache<Tensor<'b>>) -> LayerCache<Tensor<'b>>,
    ) -> (Tensor<'b>, ChoiceResults<Tensor<'b>>) {
        let gemma = &pass.spec.gemma;
        let batch = self.tokens.batch;
        // A device that wants more rows gets more of the prompt's last tokens.
        let wanted = pass.ops.decode_rows(pass.dtype(), batch).div_ceil(batch);
        let (kept, count) = match self.last {
            Some(index) => (Kept::At(index, wanted), wanted),
            None => {
                let count = wanted.min(self.length);
                (Kept::Last(count), count)
            }
        };
        let x = self.hidden(pass, stream, kept, extend);
        let logits = gemma.logits(pass, gemma.final_norm(pass, x));
        let (batch, count) = (batch as i64, count as i64);
        let (token, report) = match choosing.choice {
            Choice::GREEDY => {
                let token = greedy(pass, logits)
                    .reshape(&[batch, count])
                    .slice(1, count - 1, count)
                    .reshape(&[batch]);
                (token, ChoiceResults::default())
            }
            _ => {
                let share = logits.size(1);
                let logits = logits
                    .reshape(&[batch, count, share])
                    .slice(1, count - 1, count)
                    .reshape(&[batch, share]);
                choose_once(pass, choosing, choice, logits)
            }
        };
        (pass.gather_over_data(token), report)
    }

    /// Writes a layer's new keys and values into its old cache, which may be a ring, from the place
    /// `start` (s32) on: those of one prompt into the row `row` (s32), or those of all rows. What
    /// the tokens attend over, in the compute dtype, and the new cache; `of_prompts` gives the part
    /// of a cache that is the prompts'.
    pub fn write(
        &self,
        pass: &Pass<'_, 'b>,
        ring: Option<Ring>,
        [old, new]: [LayerCache<Tensor<'b>>; 2],
        (row, start): (Option<Tensor<'b>>, Tensor<'b>),
        of_prompts: impl Fn(LayerCache<Tensor<'b>>) -> LayerCache<Tensor<'b>>,
    ) -> [LayerCache<Tensor<'b>>; 2] {
        let write = |new, slot| match row {
            Some(row) => update_row(pass, old, new, row, slot),
            None => update_cache(pass, old, new, slot),
        };
        let [seen, cache] = match ring {
            None => {
                let cache = write(new, start);
                [of_prompts(cache), cache]
            }
            Some(ring) => {
                let last = match self.last {
                    Some(index) => start + index,
                    None => start + (self.length - 1) as f64,
                };
                let [seen, left] = ring.extend(pass, of_prompts(old), new, [start, last]);
                [seen, write(left, pass.b.integer(0))]
            }
        };
        [in_compute_dtype(seen, pass.compute()), cache]
    }

    /// Runs all layers on embedded tokens: [batch · kept, hidden], where only the `kept` tokens
    /// continue after the keys and values of the last layer that has any of its own.
    ///
    /// `extend` turns a layer's new keys and values into those to attend over, which layers that
    /// share its cache do too.
    pub fn hidden(
        &self,
        pass: &Pass<'_, 'b>,
        mut stream: Stream<'b>,
        kept: Kept<'b>,
        mut extend: impl FnMut(&AttentionSpec, LayerCache<Tensor<'b>>) -> LayerCache<Tensor<'b>>,
    ) -> Tensor<'b> {
        let gemma = &pass.spec.gemma;
        let own = |block: &Block| !block.self_attn.spec().shares_cache;
        let last_own = gemma.layers.iter().rposition(own).unwrap_or(0);
        let mut seen = Vec::new();
        for (layer, block) in gemma.layers.iter().enumerate() {
            let asking = match layer < last_own {
                true => Kept::All,
                false => kept,
            };
            let (tokens, kept) = match layer <= last_own {
                true => (self.tokens.clone(), asking),
                // The others are gone already.
                false => (self.tokens.kept(asking), Kept::All),
            };
            stream = block.forward(pass, stream, &tokens, kept, |attention, new| {
                let spec = attention.spec();
                let bias = asking.of(self.masks.of(spec.window));
                seen.extend(new.cache.map(|cache| extend(spec, cache)));
                attention.attend(pass, new.queries, seen[spec.cache], bias)
            });
        }
        stream.x
    }
}
