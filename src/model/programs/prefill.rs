//! Whole prompts in one pass.

use hlo::{ArrayShape, Tensor};

use super::super::ModelSpec;
use super::super::nn::{Masks, Rotary, Tokens, causal_mask, fill_cache};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::prompt::{Prompt, PromptResults, rotations};
use super::{Arguments, Caches, Outcome, Program, s32};

/// Runs left-padded prompts and fills the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefill {
    /// Prompts.
    pub batch: usize,
    /// Tokens in each, padding included.
    pub prompt: usize,
    /// Rows of the caches, at least `batch`; those past it are zero.
    pub rows: usize,
    /// Length of the caches, at least `prompt`; slots past it are zero. Layers with a shorter
    /// window have a ring.
    pub cache: usize,
}

ports! {
    /// Left-padded prompts.
    pub struct PromptInputs {
        /// Token ids, s32 [batch, prompt].
        input_ids,
        /// 1 for a token and 0 for padding, s32 [batch, prompt].
        attention_mask,
    }
}

impl PromptInputs<ArrayShape> {
    /// The inputs of prompts of that size.
    pub(super) fn of(batch: usize, length: usize) -> Self {
        Self {
            input_ids: s32(&[batch, length]),
            attention_mask: s32(&[batch, length]),
        }
    }
}

impl<'b> Prompt<'b> {
    /// Whole prompts, of whose tokens `mask` [batch, length] (s32) says which are no padding.
    pub(super) fn whole(
        pass: &Pass<'_, 'b>,
        ropes: Vec<Rotary<Tensor<'b>>>,
        mask: Tensor<'b>,
    ) -> Self {
        let positions = mask.cumsum(1) - 1.0;
        Self {
            tokens: Tokens {
                batch: mask.size(0) as usize,
                rotations: rotations(ropes, positions),
            },
            length: mask.size(1) as usize,
            masks: Masks::new(pass.spec.gemma.spec(), pass.dtype(), |window| {
                causal_mask(mask, window)
            }),
            last: None,
        }
    }
}

impl Program for Prefill {
    const NAME: &'static str = "prefill";
    type Inputs<T> = PromptInputs<T>;
    type Results<T> = PromptResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("batch", self.batch),
            ("prompt", self.prompt),
            ("rows", self.rows),
            ("cache", self.cache),
        ]
    }

    fn positions(&self) -> usize {
        self.cache
    }

    fn caches(&self) -> Caches {
        Caches::Made
    }

    fn inputs(&self, _: &ModelSpec) -> PromptInputs<ArrayShape> {
        PromptInputs::of(self.batch, self.prompt)
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<PromptInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<PromptResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let prompt = Prompt::whole(pass, arguments.ropes, inputs.attention_mask);
        let mut caches = Vec::new();
        let x = pass.spec.gemma.embed(pass, inputs.input_ids);
        let token = prompt.next_token(pass, x, |attention, new| {
            let slots = attention.cache_slots(self.cache);
            caches.push(fill_cache(pass, new, self.rows, slots));
            new
        });
        let token = pass.gather_over_data(token);
        Outcome {
            results: PromptResults { token },
            caches,
        }
    }
}
