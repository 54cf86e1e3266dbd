//! A part of one prompt, into its row of a session.

use hlo::{ArrayShape, Tensor};

use super::super::ModelSpec;
use super::super::choice::{Choice, Choosing};
use super::super::nn::{LayerCache, Masks, Ring, Tokens, within};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::prompt::{Prompt, PromptResults, rotations};
use super::{Arguments, Caches, Outcome, Program, s32};

/// Runs a part of one prompt in each group of the data axis, and writes its keys and values
/// straight into the prompt's row. Prompts begin in the first slot of their row.
///
/// A part may be shorter than the program's `chunk`: what is written after its tokens is written
/// over before anybody sees it. So the caches have `chunk` slots more than a row may use, or the
/// last parts would be moved back over tokens that are there: that is what XLA does with an update
/// that would hang over the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Admit {
    /// Tokens that are run.
    pub chunk: usize,
    /// Rows of the caches.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
    /// How the token after the prompt is chosen.
    pub choice: Choice,
}

ports! {
    /// A part of a prompt, of each group its own.
    pub struct AdmitInputs {
        /// Token ids, s32 [1, chunk]; anything after the part's tokens.
        input_ids,
        /// The prompt's row, s32 \[1\].
        row,
        /// The position of the part's first token, which is its slot, s32 \[1\].
        start,
        /// The index in the part of its last token, s32 \[1\]; −1 for a part without tokens, which
        /// leaves rings as they are.
        last,
    }
}

impl Program for Admit {
    const NAME: &'static str = "admit";
    type Inputs<T> = AdmitInputs<T>;
    type Results<T> = PromptResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("chunk", self.chunk),
            ("rows", self.rows),
            ("cache", self.cache),
        ];
        sizes.extend(self.choice.sizes());
        sizes
    }

    fn positions(&self) -> usize {
        self.cache
    }

    fn caches(&self) -> Caches {
        Caches::Updated {
            rows: self.rows,
            length: self.cache,
        }
    }

    fn choosing(&self) -> Choosing {
        Choosing {
            choice: self.choice,
            rows: 1,
            length: self.cache,
        }
    }

    fn inputs(&self, _: &ModelSpec) -> AdmitInputs<ArrayShape> {
        AdmitInputs {
            input_ids: s32(&[1, self.chunk]),
            row: s32(&[1]),
            start: s32(&[1]),
            last: s32(&[1]),
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<AdmitInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<PromptResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let [row, start, last] = [inputs.row, inputs.start, inputs.last].map(|x| x.reshape(&[]));
        let (chunk, cache) = (self.chunk as i64, self.cache as i64);
        let offset = pass.b.indices(&[1, chunk], 1);
        let position = offset + start.everywhere_in(offset);
        let slot = pass.b.indices(&[1, chunk, cache], 2);
        let visible = Masks::by_window(pass.spec.gemma.spec(), |window| {
            match Ring::of(window, self.cache) {
                None => {
                    let own = position.broadcast(&[1, chunk, cache], &[0, 1]);
                    within(window, own, slot, slot.at_most(own))
                }
                Some(ring) => ring.visible([1, chunk], start, None),
            }
        });
        let prompt = Prompt {
            tokens: Tokens {
                batch: 1,
                rotations: rotations(arguments.ropes, position),
            },
            length: self.chunk,
            masks: Masks::biased(visible, pass.dtype()),
            last: Some(last),
        };
        let mut caches = Vec::new();
        let x = pass.spec.gemma.embed(pass, inputs.input_ids);
        let choosing = (self.choosing(), arguments.choice);
        let (token, choice) = prompt.next_token(pass, x, choosing, |attention, new| {
            let old = arguments.caches[attention.cache];
            let of_row = |cache: LayerCache<Tensor<'b>>| -> LayerCache<Tensor<'b>> {
                let zero = pass.b.integer(0);
                cache.map(|_, x| {
                    let [_, heads, slots, head_dim] = x.sizes();
                    x.dynamic_slice(&[row, zero, zero, zero], &[1, heads, slots, head_dim])
                })
            };
            let ring = Ring::of(attention.window, self.cache);
            let place = (Some(row), start);
            let [seen, cache] = prompt.write(pass, ring, [old, new], place, of_row);
            caches.push(cache);
            seen
        });
        Outcome {
            results: PromptResults { token },
            choice,
            caches,
        }
    }
}
