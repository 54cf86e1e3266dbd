//! A part of one prompt, into its row of a session.

use hlo::{ArrayShape, ElementType, Tensor};

use super::super::ModelSpec;
use super::super::choice::{ChoiceResults, at, greatest_logprobs, log_sum_exp};
use super::super::nn::{Kept, LayerCache, Masks, Ring, Tokens, within};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::prompt::{Prompt, rotations};
use super::score::in_parts;
use super::{Arguments, Caches, Outcome, Program, s32};

const F32: ElementType = ElementType::F32;
const S32: ElementType = ElementType::S32;

/// Runs a part of one prompt in each group of the data axis, and writes its keys and values
/// straight into the prompt's row. Prompts begin in the first slot of their row. The last token of
/// a prompt is not for this program: the next [`Step`](super::Step) runs it, and chooses the first
/// new token.
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
}

/// The same, with how likely each token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdmitScored {
    /// What is run.
    pub admit: Admit,
    /// How many of the most likely tokens are reported in each place, at least 1.
    pub top: usize,
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

ports! {
    /// What remains of a part on the host.
    pub struct AdmitResults {
        /// Tokens that were run, s32 \[groups\].
        tokens,
    }
}

ports! {
    /// A part of a prompt, of each group its own, to be scored.
    pub struct AdmitScoredInputs {
        /// Token ids, s32 [1, chunk]; anything after the part's tokens.
        input_ids,
        /// The prompt's row, s32 \[1\].
        row,
        /// The position of the part's first token, which is its slot, s32 \[1\].
        start,
        /// The index in the part of its last token, s32 \[1\]; −1 for a part without tokens.
        last,
        /// The token after each of them, s32 [1, chunk]; anything where there is none.
        targets,
    }
}

ports! {
    /// How likely the tokens after those of a part are, of all groups of the data axis.
    pub struct AdmitScoredResults {
        /// The logarithm of each target's probability, f32 [groups, chunk].
        logprob,
        /// The most likely tokens in its place, s32 [groups, chunk, top].
        top_ids,
        /// The logarithms of their probabilities, f32, as `top_ids`.
        top_logprobs,
    }
}

impl Program for Admit {
    const NAME: &'static str = "admit";
    type Inputs<T> = AdmitInputs<T>;
    type Results<T> = AdmitResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("chunk", self.chunk),
            ("rows", self.rows),
            ("cache", self.cache),
        ]
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
    ) -> Outcome<AdmitResults<Tensor<'b>>, Tensor<'b>> {
        let last = arguments.inputs.last;
        let (_, caches) = self.run(pass, arguments, false);
        Outcome {
            results: AdmitResults {
                tokens: pass.gather_over_data(last + 1.0),
            },
            choice: ChoiceResults::default(),
            caches,
        }
    }
}

impl Admit {
    /// The hidden states after the part's tokens, [kept, hidden], and the caches. Where not all are
    /// kept, only what the caches need is computed.
    fn run<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<AdmitInputs<Tensor<'b>>, Tensor<'b>>,
        all: bool,
    ) -> (Tensor<'b>, Vec<LayerCache<Tensor<'b>>>) {
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
        let kept = match all {
            true => Kept::All,
            false => Kept::At(last.max(0.0), 1),
        };
        let x = prompt.hidden(pass, x, kept, |attention, new| {
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
        (x, caches)
    }
}

impl Program for AdmitScored {
    const NAME: &'static str = "admit_scored";
    type Inputs<T> = AdmitScoredInputs<T>;
    type Results<T> = AdmitScoredResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = self.admit.sizes();
        sizes.push(("top", self.top));
        sizes
    }

    fn positions(&self) -> usize {
        self.admit.positions()
    }

    fn caches(&self) -> Caches {
        self.admit.caches()
    }

    fn inputs(&self, spec: &ModelSpec) -> AdmitScoredInputs<ArrayShape> {
        let AdmitInputs {
            input_ids,
            row,
            start,
            last,
        } = self.admit.inputs(spec);
        AdmitScoredInputs {
            targets: input_ids.clone(),
            input_ids,
            row,
            start,
            last,
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<AdmitScoredInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<AdmitScoredResults<Tensor<'b>>, Tensor<'b>> {
        let (chunk, top) = (self.admit.chunk as i64, self.top as i64);
        let AdmitScoredInputs {
            input_ids,
            row,
            start,
            last,
            targets,
        } = arguments.inputs;
        let arguments = Arguments {
            inputs: AdmitInputs {
                input_ids,
                row,
                start,
                last,
            },
            ropes: arguments.ropes,
            choice: arguments.choice,
            caches: arguments.caches,
        };
        let (x, caches) = self.admit.run(pass, arguments, true);
        let shapes = [(F32, vec![]), (S32, vec![top]), (F32, vec![top])];
        let targets = targets.reshape(&[chunk]);
        let [logprob, top_ids, top_logprobs] =
            in_parts(pass, x, targets, shapes, |pass, logits, targets| {
                let total = log_sum_exp(pass, logits);
                let (ids, logprobs) = greatest_logprobs(pass, logits, total, self.top);
                [at(pass, logits, targets) - total, ids, logprobs]
            });
        let of_group = |x: Tensor<'b>, dims: &[i64]| pass.gather_over_data(x.reshape(dims));
        Outcome {
            results: AdmitScoredResults {
                logprob: of_group(logprob, &[1, chunk]),
                top_ids: of_group(top_ids, &[1, chunk, top]),
                top_logprobs: of_group(top_logprobs, &[1, chunk, top]),
            },
            choice: ChoiceResults::default(),
            caches,
        }
    }
}
