//! A part of long prompts, after what the caches hold already.

use hlo::{ArrayShape, Tensor};

use super::super::ModelSpec;
use super::super::choice::{Choice, Choosing};
use super::super::nn::{LayerCache, Masks, Ring, Tokens, is_token, within};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::prompt::{Prompt, PromptResults, rotations};
use super::{Arguments, Caches, Outcome, Program, s32};

/// Runs the next `chunk` tokens of left-padded prompts, the first of which
/// [`Prefill`](super::Prefill) has run. With it, memory for scores grows with the length of a
/// prompt instead of its square, and that of a layer's inner values not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extend {
    /// Prompts.
    pub batch: usize,
    /// Tokens of each that are run, padding included.
    pub chunk: usize,
    /// Rows of the caches, at least `batch`.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
    /// Slots at the front of the caches that the prompts take, padding included: what follows them
    /// is empty, and is not attended to.
    pub reach: usize,
    /// How the token after the prompt is chosen.
    pub choice: Choice,
}

ports! {
    /// A part of left-padded prompts.
    pub struct ExtendInputs {
        /// Token ids, s32 [batch, chunk].
        input_ids,
        /// The position of each token in its prompt, s32 [batch, chunk]; anything for padding.
        position,
        /// The prompts' attention mask, s32 [batch, reach]; anything past them.
        key_mask,
        /// The cache slot of the first of these tokens, s32.
        slot,
    }
}

impl Program for Extend {
    const NAME: &'static str = "extend";
    type Inputs<T> = ExtendInputs<T>;
    type Results<T> = PromptResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("batch", self.batch),
            ("chunk", self.chunk),
            ("rows", self.rows),
            ("cache", self.cache),
            ("reach", self.reach),
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
            rows: self.batch,
            length: self.cache,
        }
    }

    fn inputs(&self, _: &ModelSpec) -> ExtendInputs<ArrayShape> {
        ExtendInputs {
            input_ids: s32(&[self.batch, self.chunk]),
            position: s32(&[self.batch, self.chunk]),
            key_mask: s32(&[self.batch, self.reach]),
            slot: s32(&[]),
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<ExtendInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<PromptResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let prompt = Prompt {
            tokens: Tokens {
                batch: self.batch,
                rotations: rotations(arguments.ropes, inputs.position),
            },
            length: self.chunk,
            masks: Masks::new(
                pass.spec.gemma.spec(),
                pass.dtype(),
                |window| match Ring::of(window, self.cache) {
                    None => self.visible(inputs.key_mask, inputs.slot, window),
                    Some(ring) => {
                        let sizes = [self.batch as i64, self.chunk as i64];
                        ring.visible(sizes, inputs.slot, Some(is_token(inputs.key_mask)))
                    }
                },
            ),
            last: None,
        };
        let mut caches = Vec::new();
        let x = pass.spec.gemma.embed(pass, inputs.input_ids);
        let choosing = (self.choosing(), arguments.choice);
        let (token, choice) = prompt.next_token(pass, x, choosing, |attention, new| {
            let old = arguments.caches[attention.cache];
            let ring = Ring::of(attention.window, self.cache);
            let of_prompts = |cache: LayerCache<Tensor<'b>>| -> LayerCache<Tensor<'b>> {
                cache.map(|_, x| {
                    let of_batch = x.slice(0, 0, self.batch as i64);
                    match ring.is_some() || self.reach == self.cache {
                        true => of_batch,
                        false => of_batch.slice(2, 0, self.reach as i64),
                    }
                })
            };
            let place = (None, inputs.slot);
            let [seen, cache] = prompt.write(pass, ring, [old, new], place, of_prompts);
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

impl Extend {
    /// Which slots of the caches each token sees, [batch, chunk, reach] (pred): those up to its own
    /// that hold no padding and are in the window.
    fn visible<'b>(
        &self,
        key_mask: Tensor<'b>,
        slot: Tensor<'b>,
        window: Option<usize>,
    ) -> Tensor<'b> {
        let b = key_mask.builder();
        let dims = [self.batch as i64, self.chunk as i64, self.reach as i64];
        let query = b.indices(&dims, 1);
        let own = query + slot.everywhere_in(query);
        let key = b.indices(&dims, 2);
        let causal = within(window, own, key, key.at_most(own));
        causal & is_token(key_mask).broadcast(&dims, &[0, 2])
    }
}
