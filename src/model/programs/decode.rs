//! The decode loop of a static batch.

use hlo::{ElementType, Shape, Tensor};

use super::super::ModelSpec;
use super::super::greedy::{all_done, is_eos};
use super::super::nn::Place;
use super::super::pass::Pass;
use super::super::ports::ports;
use super::decode_loop::{State, next_token, write_column};
use super::{Arguments, Caches, Outcome, Program, array, s32};

/// Generates greedily, up to `chunk` tokens a row, in a loop on the device.
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
    /// What came of the steps.
    pub struct DecodeResults {
        /// Tokens of all groups of the data axis, s32 [groups · rows, chunk]; columns past the steps run are undefined.
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
    /// What changes from step to step, but for the caches; and the key mask, which does not.
    #[derive(Copy)]
    struct Carried {
        /// Whether all rows of all devices are done, a scalar pred.
        finished,
        step,
        limit,
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
        vec![
            ("rows", self.rows),
            ("cache", self.cache),
            ("chunk", self.chunk),
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

    fn excess_precision(&self) -> bool {
        true
    }

    fn inputs(&self, _: &ModelSpec) -> DecodeInputs<Shape> {
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
        let spec = pass.spec;
        let inputs = arguments.inputs;
        let tokens = pass.padding(&[self.rows as i64, self.chunk as i64]);
        let initial = State {
            carried: Carried {
                finished: all_done(pass, inputs.done),
                step: pass.b.integer(0),
                limit: inputs.limit,
                slot: inputs.slot,
                position: inputs.position,
                token: inputs.token,
                done: inputs.done,
                tokens,
                key_mask: inputs.key_mask,
            },
            ropes: arguments.ropes,
            caches: arguments.caches,
            parameters: pass.parameters().to_vec(),
        };
        let end = pass.b.loop_while(
            initial.pack(),
            |_, state| {
                let Carried {
                    step,
                    limit,
                    finished,
                    ..
                } = State::<Carried<_>>::unpack(spec, state).carried;
                step.less(limit) & !finished
            },
            |b, state| {
                let state = State::<Carried<_>>::unpack(spec, state);
                let pass = Pass::new(b, spec, state.parameters.clone());
                step(&pass, state).pack()
            },
        );
        let end = State::<Carried<_>>::unpack(spec, end);
        Outcome {
            results: DecodeResults {
                tokens: pass.gather_over_data(end.carried.tokens),
                steps: end.carried.step,
                last: pass.gather_over_data(end.carried.token),
                done: end.carried.done,
            },
            caches: end.caches,
        }
    }
}

/// One step: runs each row's last token and chooses the next.
fn step<'b>(
    pass: &Pass<'_, 'b>,
    state: State<'b, Carried<Tensor<'b>>>,
) -> State<'b, Carried<Tensor<'b>>> {
    let Carried {
        step,
        slot,
        position,
        token,
        done,
        tokens,
        key_mask,
        ..
    } = state.carried;
    let place = Place::Shared { slot, key_mask };
    let (chosen, caches) = next_token(pass, &state.ropes, &state.caches, [token, position], place);

    let token = done.select(pass.padding(&chosen.dims()), chosen);
    let done = done | is_eos(pass, token);
    State {
        carried: Carried {
            tokens: write_column(tokens, token, step),
            finished: all_done(pass, done),
            step: step + 1.0,
            slot: slot + 1.0,
            position: position + 1.0,
            token,
            done,
            ..state.carried
        },
        caches,
        ..state
    }
}
