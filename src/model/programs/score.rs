//! The log-probabilities of given tokens.

use hlo::{ArrayShape, ElementType, Tensor};

use super::super::ModelSpec;
use super::super::choice::{ChoiceResults, at, log_sum_exp};
use super::super::greedy::greedy;
use super::super::nn::{Kept, Masks, Ring, Tokens, within};
use super::super::pass::Pass;
use super::super::ports::ports;
use super::prompt::{Prompt, rotations};
use super::{Arguments, Caches, Outcome, Program, s32};

/// Tokens whose logits are there at the same time, on one device.
const PART: i64 = 64;

/// Runs the next `chunk` tokens of texts that begin in the first slot of their rows, and tells how
/// likely given tokens are after each of them.
///
/// Logits are made for a few tokens at a time and never leave the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Score {
    /// Texts.
    pub batch: usize,
    /// Tokens of each that are run; a power of two.
    pub chunk: usize,
    /// Length of the caches, at least where the last tokens end.
    pub cache: usize,
}

ports! {
    /// A part of each text.
    pub struct ScoreInputs {
        /// Token ids, s32 [batch, chunk]; anything after a text's tokens.
        input_ids,
        /// The token after each of them, s32 [batch, chunk]; anything where none is asked for.
        targets,
        /// The position of the first of these tokens, which is its slot, s32.
        start,
    }
}

ports! {
    /// How likely the tokens are, of all groups of the data axis.
    pub struct ScoreResults {
        /// The logarithm of each target's probability, f32 [groups · batch, chunk].
        logprob,
        /// The most likely token in its place, s32 [groups · batch, chunk].
        best,
    }
}

impl Program for Score {
    const NAME: &'static str = "score";
    type Inputs<T> = ScoreInputs<T>;
    type Results<T> = ScoreResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![
            ("batch", self.batch),
            ("chunk", self.chunk),
            ("cache", self.cache),
        ]
    }

    fn positions(&self) -> usize {
        self.cache
    }

    fn caches(&self) -> Caches {
        Caches::Updated {
            rows: self.batch,
            length: self.cache,
        }
    }

    fn inputs(&self, _: &ModelSpec) -> ScoreInputs<ArrayShape> {
        ScoreInputs {
            input_ids: s32(&[self.batch, self.chunk]),
            targets: s32(&[self.batch, self.chunk]),
            start: s32(&[]),
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<ScoreInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<ScoreResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let (batch, chunk) = (self.batch as i64, self.chunk as i64);
        let offset = pass.b.indices(&[batch, chunk], 1);
        let position = offset + inputs.start.everywhere_in(offset);
        let dims = [batch, chunk, self.cache as i64];
        let slot = pass.b.indices(&dims, 2);
        let own = position.broadcast(&dims, &[0, 1]);
        let texts = Prompt {
            tokens: Tokens {
                batch: self.batch,
                rotations: rotations(arguments.ropes, position),
            },
            length: self.chunk,
            masks: Masks::new(
                pass.spec.gemma.spec(),
                pass.dtype(),
                |window| match Ring::of(window, self.cache) {
                    None => within(window, own, slot, slot.at_most(own)),
                    Some(ring) => ring.visible([batch, chunk], inputs.start, None),
                },
            ),
            last: None,
        };
        let mut caches = Vec::new();
        let x = pass.spec.gemma.embed(pass, inputs.input_ids);
        let x = texts.hidden(pass, x, Kept::All, |attention, new| {
            let old = arguments.caches[attention.cache];
            let ring = Ring::of(attention.window, self.cache);
            let place = (None, inputs.start);
            let [seen, cache] = texts.write(pass, ring, [old, new], place, |cache| cache);
            caches.push(cache);
            seen
        });
        let targets = inputs.targets.reshape(&[batch * chunk]);
        let shapes = [ElementType::F32, ElementType::S32].map(|of| (of, vec![]));
        let scores = in_parts(pass, x, targets, shapes, |pass, logits, targets| {
            let logprob = at(pass, logits, targets) - log_sum_exp(pass, logits);
            [logprob, greedy(pass, logits)]
        });
        let [logprob, best] = scores.map(|x| {
            let x = x.reshape(&[batch, chunk]);
            pass.gather_over_data(x)
        });
        Outcome {
            results: ScoreResults { logprob, best },
            choice: ChoiceResults::default(),
            caches,
        }
    }
}

/// What `each` makes of the logits [tokens, share of the vocabulary] after the hidden states `x`
/// [tokens, hidden] and of `targets` (s32 \[tokens\]), for a part of the tokens at a time. Each
/// result has the tokens first, then the dimensions that `shapes` says.
pub(super) fn in_parts<'b, const N: usize>(
    pass: &Pass<'_, 'b>,
    x: Tensor<'b>,
    targets: Tensor<'b>,
    shapes: [(ElementType, Vec<i64>); N],
    each: impl for<'c> Fn(&Pass<'_, 'c>, Tensor<'c>, Tensor<'c>) -> [Tensor<'c>; N],
) -> [Tensor<'b>; N] {
    let [tokens, hidden] = x.sizes();
    // Both are powers of two, times the number of texts.
    let part = match tokens % PART {
        0 => PART,
        _ => 16.min(tokens),
    };
    let spec = pass.spec;
    let mut state = vec![pass.b.integer(0), x, targets];
    state.extend(shapes.iter().map(|(element_type, dims)| {
        let dims = [&[tokens], dims.as_slice()].concat();
        pass.b.filled(*element_type, &dims, 0.0)
    }));
    state.extend(pass.parameters());
    let end = pass.b.loop_while(
        state,
        |_, state| state[0].less(tokens as f64),
        |b, mut state| {
            let pass = Pass::new(b, spec, state[3 + N..].to_vec());
            let gemma = &spec.gemma;
            let (start, zero) = (state[0], b.integer(0));
            let x = state[1].dynamic_slice(&[start, zero], &[part, hidden]);
            let targets = state[2].dynamic_slice(&[start], &[part]);
            let logits = gemma.logits(&pass, gemma.final_norm(&pass, x));
            state[0] = start + part as f64;
            for (place, result) in each(&pass, logits, targets).into_iter().enumerate() {
                let mut at = vec![start];
                at.resize(1 + shapes[place].1.len(), zero);
                state[3 + place] = state[3 + place].dynamic_update(result, &at);
            }
            state
        },
    );
    std::array::from_fn(|place| end[3 + place])
}
