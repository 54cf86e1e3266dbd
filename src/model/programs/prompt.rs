//! What the programs that run prompts share.

use hlo::Tensor;

use super::super::greedy::greedy;
use super::super::nn::{Block, Kept, LayerCache, Masks, Rotary, Rotation, Stream, Tokens};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::super::spec::AttentionSpec;

ports! {
    /// What a program that runs prompts gives.
    pub struct PromptResults {
        /// The greedy next token of all groups of the data axis, s32 [groups · batch].
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
    /// Runs all layers on embedded tokens: the greedy next token of each row, s32 \[batch\].
    ///
    /// `extend` turns a layer's new keys and values into those to attend over, which layers that
    /// share its cache do too. After the last layer's that has any, only the last token of a row
    /// continues, or the last few where the device would rather have more rows.
    pub fn next_token(
        &self,
        pass: &Pass<'_, 'b>,
        mut stream: Stream<'b>,
        mut extend: impl FnMut(&AttentionSpec, LayerCache<Tensor<'b>>) -> LayerCache<Tensor<'b>>,
    ) -> Tensor<'b> {
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
        let x = stream.x;
        let logits = gemma.logits(pass, gemma.final_norm(pass, x));
        let (batch, count) = (batch as i64, count as i64);
        greedy(pass, logits)
            .reshape(&[batch, count])
            .slice(1, count - 1, count)
            .reshape(&[batch])
    }
}
