//! The decode loop of a static batch.

use hlo::{ArrayShape, ElementType, Tensor};

use super::super::ModelSpec;
use super::super::choice::{Choice, ChoiceState, Choosing};
use super::super::greedy::{all_done, is_eos};
use super::super::nn::Place;
use super::super::pass::Pass;
use super::super::ports::ports;
use super::decode_loop::{Clock, Loop, LoopState, Start, State, run, write_column};
use super::{Arguments, Caches, Outcome, Program, array, s32};

/// Generates, up to `chunk` tokens a row, in a loop on the device.
///
/// A row that is done continues with padding; the loop ends early when all rows are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decode {
    /// Rows of the batch.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
    /// The most steps that one call runs.
    pub chunk: usize,
    /// How tokens are chosen.
    pub choice: Choice,
}

ports! {
    /// Where the rows stand.
    pub struct DecodeInputs {
        /// The prompts' attention mask, then ones, s32 [rows, cache].
        key_mask,
        /// Steps to run, at most `chunk`, s32.
        limit,
        /// The cache slot of the first token, s32.
        slot,
        /// The position of the first token in each row, s32 \[rows\].
        position,
        /// The last token of each row, not yet in the caches, s32 \[rows\].
        token,
        /// Rows that have ended, pred \[rows\].
        done,
    }
}

ports! {
    /// The results of the steps.
    pub struct DecodeResults {
        /// Tokens of all groups of the data axis, s32 [groups · rows, chunk]; columns past the
        /// steps run are undefined.
        tokens,
        /// Steps run, s32.
        steps,
        /// The last token of each row of all groups, s32 [groups · rows].
        last,
        /// Rows that have ended, pred \[rows\].
        done,
    }
}

ports! {
    /// What a step changes, but for the clock and the caches; and the key mask, which it does not.
    #[derive(Copy)]
    pub(super) struct Carried {
        slot,
        position,
        token,
        done,
        tokens,
        key_mask,
    }
}

impl Program for Decode {
    const NAME: &'static str = "decode";
    type Inputs<T> = DecodeInputs<T>;
    type Results<T> = DecodeResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("rows", self.rows),
            ("cache", self.cache),
            ("chunk", self.chunk),
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
            rows: self.rows,
            length: self.cache,
        }
    }

    /// Probabilities that are reported are those of a plain call of the model.
    fn excess_precision(&self) -> bool {
        self.choice.logprobs.is_none()
    }

    fn inputs(&self, _: &ModelSpec) -> DecodeInputs<ArrayShape> {
        DecodeInputs {
            key_mask: s32(&[self.rows, self.cache]),
            limit: s32(&[]),
            slot: s32(&[]),
            position: s32(&[self.rows]),
            token: s32(&[self.rows]),
            done: array(ElementType::Pred, &[self.rows]),
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<DecodeInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<DecodeResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let carried = Carried {
            slot: inputs.slot,
            position: inputs.position,
            token: inputs.token,
            done: inputs.done,
            tokens: pass.padding(&[self.rows as i64, self.chunk as i64]),
            key_mask: inputs.key_mask,
        };
        let clock = [all_done(pass, inputs.done), inputs.limit];
        let choice = ChoiceState::begin(pass, self.choosing(), arguments.choice, self.chunk);
        let start = Start {
            carried,
            choice,
            ropes: arguments.ropes,
            caches: arguments.caches,
        };
        let end = run(self, pass, clock, start);
        Outcome {
            results: DecodeResults {
                tokens: pass.gather_over_data(end.carried.tokens),
                steps: end.clock.step,
                last: pass.gather_over_data(end.carried.token),
                done: end.carried.done,
            },
            choice: end.choice.results(pass),
            caches: end.caches,
        }
    }
}

impl Loop for Decode {
    type Carried<T> = Carried<T>;

    /// Runs each row's last token and chooses the next.
    fn step<'b>(&self, pass: &Pass<'_, 'b>, mut state: LoopState<'b, Self>) -> LoopState<'b, Self> {
        let Carried {
            slot,
            position,
            token,
            done,
            tokens,
            key_mask,
            ..
        } = state.carried;
        let place = Place::Shared { slot, key_mask };
        let chosen = state.next_token(pass, self.choice, [token, position], place, self.cache);

        let token = done.select(pass.padding(&chosen.dims()), chosen);
        let done = done | is_eos(pass, token);
        State {
            clock: Clock {
                finished: all_done(pass, done),
                ..state.clock
            },
            carried: Carried {
                tokens: write_column(tokens, token, state.clock.step),
                slot: slot + 1.0,
                position: position + 1.0,
                token,
                done,
                ..state.carried
            },
            ..state
        }
    }
}
