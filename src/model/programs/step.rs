//! Steps of a session's rows, each at its own position.

use hlo::{ArrayShape, ElementType, Tensor};

use super::super::ModelSpec;
use super::super::choice::{Choice, ChoiceState, Choosing};
use super::super::greedy::{all_done, is_eos};
use super::super::nn::Place;
use super::super::pass::Pass;
use super::super::ports::ports;
use super::decode_loop::{Clock, Loop, LoopState, Start, State, run, write_column};
use super::{Arguments, Caches, Outcome, Program, array, s32};

/// Generates in the rows that are not done, up to `chunk` tokens each, in a loop on the
/// device.
///
/// A row that is done stays where it is: its padding is written to the slot after its last token,
/// time and again, and nobody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Rows of the session.
    pub rows: usize,
    /// Length of the caches.
    pub cache: usize,
    /// The most steps that one call runs.
    pub chunk: usize,
    /// How tokens are chosen.
    pub choice: Choice,
    /// Whether every operation rounds to its dtype, as in a plain call of the model. Programs of one
    /// session agree in that, so that a row's tokens do not depend on which of them runs it.
    pub rounds: bool,
}

ports! {
    /// Where the rows stand.
    pub struct StepInputs {
        /// Steps to run, at most `chunk`, s32.
        limit,
        /// Whether to stop as soon as a row is done that was not before, pred.
        until_any,
        /// The position of each row's last token, which is not yet in the caches, s32 \[rows\].
        position,
        /// That token, s32 \[rows\].
        token,
        /// Tokens that each row may still have, s32 \[rows\].
        left,
        /// Rows that are not to generate, pred \[rows\].
        done,
    }
}

ports! {
    /// The results of the steps.
    pub struct StepResults {
        /// Tokens of all groups of the data axis, s32 [groups · rows, chunk]: padding where a row
        /// was done, and undefined past the steps run.
        tokens,
        /// Steps run, s32.
        steps,
    }
}

ports! {
    /// What a step changes or needs, but for the clock and the caches.
    #[derive(Copy)]
    pub(super) struct Carried {
        until_any,
        position,
        token,
        left,
        done,
        /// Rows that were done at the call's start.
        idle,
        tokens,
    }
}

impl Program for Step {
    const NAME: &'static str = "step";
    type Inputs<T> = StepInputs<T>;
    type Results<T> = StepResults<T>;

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("rows", self.rows),
            ("cache", self.cache),
            ("chunk", self.chunk),
        ];
        sizes.extend(self.choice.sizes());
        // Probabilities are those of a plain call of the model, unless the session says otherwise.
        if self.rounds != self.choice.logprobs.is_some() {
            sizes.push(("rounds", usize::from(self.rounds)));
        }
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

    fn excess_precision(&self) -> bool {
        !self.rounds
    }

    fn inputs(&self, _: &ModelSpec) -> StepInputs<ArrayShape> {
        StepInputs {
            limit: s32(&[]),
            until_any: array(ElementType::Pred, &[]),
            position: s32(&[self.rows]),
            token: s32(&[self.rows]),
            left: s32(&[self.rows]),
            done: array(ElementType::Pred, &[self.rows]),
        }
    }

    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<StepInputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<StepResults<Tensor<'b>>, Tensor<'b>> {
        let inputs = arguments.inputs;
        let carried = Carried {
            until_any: inputs.until_any,
            position: inputs.position,
            token: inputs.token,
            left: inputs.left,
            done: inputs.done,
            idle: inputs.done,
            tokens: pass.padding(&[self.rows as i64, self.chunk as i64]),
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
            results: StepResults {
                tokens: pass.gather_over_data(end.carried.tokens),
                steps: end.clock.step,
            },
            choice: end.choice.results(pass),
            caches: end.caches,
        }
    }
}

impl Loop for Step {
    type Carried<T> = Carried<T>;

    /// Runs each row's last token and chooses the next.
    fn step<'b>(&self, pass: &Pass<'_, 'b>, mut state: LoopState<'b, Self>) -> LoopState<'b, Self> {
        let Carried {
            until_any,
            position,
            token,
            left,
            done,
            idle,
            tokens,
            ..
        } = state.carried;
        let place = Place::Own { slots: position };
        let chosen = state.next_token(pass, self.choice, [token, position], place, self.cache);

        let token = done.select(pass.padding(&chosen.dims()), chosen);
        let moved = |x: Tensor<'b>, by: f64| done.select(x, x + by);
        let (position, left) = (moved(position, 1.0), moved(left, -1.0));
        let done = done | is_eos(pass, token) | left.at_most(0.0);
        // No row of any device is done that was not at the start.
        let none_new = all_done(pass, !done | idle);
        State {
            clock: Clock {
                finished: all_done(pass, done) | (until_any & !none_new),
                ..state.clock
            },
            carried: Carried {
                tokens: write_column(tokens, token, state.clock.step),
                position,
                token,
                left,
                done,
                ..state.carried
            },
            ..state
        }
    }
}
