//! What loops on the device share: the state that they carry, and one token of every row.

use hlo::Tensor;

use super::super::ModelSpec;
use super::super::choice::{Choice, ChoiceState};
use super::super::nn::{
    CachedAttention, Kept, LayerCache, Place, Ring, Rotary, Tokens, update_cache, update_rows,
};
use super::super::pass::Pass;
use super::super::ports::{Ports, ports};
use super::prompt::rotations;
use super::{Program, take_many};

/// A program that is a loop on the device.
pub(super) trait Loop: Program {
    /// What a step changes or needs beyond the clock, the caches, and what is loop-invariant.
    type Carried<T>: Ports<Item = T>;

    /// One step. It leaves the clock's step and limit alone.
    fn step<'b>(&self, pass: &Pass<'_, 'b>, state: LoopState<'b, Self>) -> LoopState<'b, Self>;
}

/// The state of a program's loop.
pub(super) type LoopState<'b, P> = State<'b, <P as Loop>::Carried<Tensor<'b>>>;

ports! {
    /// How far a loop is.
    #[derive(Copy)]
    pub(super) struct Clock {
        /// Whether the devices leave the loop before its limit, a scalar pred.
        finished,
        /// Steps run, s32.
        step,
        /// The most steps, s32.
        limit,
    }
}

/// The state of a loop. A loop's body sees nothing else of the computation around it, so the tables
/// and the parameters, which are loop-invariant, are in it.
pub(super) struct State<'b, C> {
    pub clock: Clock<Tensor<'b>>,
    pub carried: C,
    pub choice: ChoiceState<Tensor<'b>>,
    pub ropes: Vec<Rotary<Tensor<'b>>>,
    pub caches: Vec<LayerCache<Tensor<'b>>>,
    pub parameters: Vec<Tensor<'b>>,
}

impl<'b, C: Ports<Item = Tensor<'b>>> State<'b, C> {
    fn pack(self) -> Vec<Tensor<'b>> {
        let mut all = self.clock.items();
        all.extend(self.carried.items());
        all.extend(self.choice.named().into_iter().map(|(_, item)| item));
        all.extend(self.ropes.into_iter().flat_map(Ports::items));
        all.extend(self.caches.into_iter().flat_map(Ports::items));
        all.extend(self.parameters);
        all
    }

    /// Runs one token of each row, `token` at `position` (both s32 \[rows\]), in the caches of
    /// `length`, and chooses the next, s32 \[rows\]. Caches and choice are then those after it.
    pub fn next_token(
        &mut self,
        pass: &Pass<'_, 'b>,
        choice: Choice,
        [token, position]: [Tensor<'b>; 2],
        place: Place<'b>,
        length: usize,
    ) -> Tensor<'b> {
        let (ropes, caches) = (&self.ropes, &self.caches);
        let (logits, caches) = logits(pass, ropes, caches, [token, position], place, length);
        self.caches = caches;
        self.choice.choose(pass, choice, logits, self.clock.step)
    }

    /// Reads what [`pack`](Self::pack) wrote of a model and a choice like this.
    fn unpack(spec: &ModelSpec, choice: &ChoiceState<()>, all: Vec<Tensor<'b>>) -> Self {
        let mut all = all.into_iter();
        let gemma = spec.gemma.spec();
        let state = (|| {
            Some(Self {
                clock: Clock::take(&mut all)?,
                carried: C::take(&mut all)?,
                choice: ChoiceState::take_like(choice, &mut all)?,
                ropes: take_many(&mut all, gemma.ropes.len())?,
                caches: take_many(&mut all, gemma.caches())?,
                parameters: all.collect(),
            })
        })();
        state.expect("a loop gives as many values as it was given")
    }
}

/// What a loop starts from, beside its clock and the parameters.
pub(super) struct Start<'b, C> {
    pub carried: C,
    pub choice: ChoiceState<Tensor<'b>>,
    pub ropes: Vec<Rotary<Tensor<'b>>>,
    pub caches: Vec<LayerCache<Tensor<'b>>>,
}

/// Runs steps of `program` until its clock has finished or reached its limit: the state then.
pub(super) fn run<'b, P: Loop>(
    program: &P,
    pass: &Pass<'_, 'b>,
    [finished, limit]: [Tensor<'b>; 2],
    start: Start<'b, P::Carried<Tensor<'b>>>,
) -> LoopState<'b, P> {
    let spec = pass.spec;
    let choice = &start.choice.as_ref().map(|_, _| ());
    let initial: LoopState<'b, P> = State {
        clock: Clock {
            finished,
            step: pass.b.integer(0),
            limit,
        },
        carried: start.carried,
        choice: start.choice,
        ropes: start.ropes,
        caches: start.caches,
        parameters: pass.parameters().to_vec(),
    };
    let end = pass.b.loop_while(
        initial.pack(),
        |_, state| {
            let clock = LoopState::<P>::unpack(spec, choice, state).clock;
            clock.step.less(clock.limit) & !clock.finished
        },
        |b, state| {
            let state = LoopState::<P>::unpack(spec, choice, state);
            let pass = Pass::new(b, spec, state.parameters.clone());
            let mut next = program.step(&pass, state);
            next.clock.step = next.clock.step + 1.0;
            next.pack()
        },
    );
    State::unpack(spec, choice, end)
}

/// Runs one token of each row, `token` at `position` (both s32 \[rows\]), through all layers, and
/// writes its keys and values where the rows stand: this device's logits [rows, share of the
/// vocabulary], and the caches, which have `length` where a layer has no shorter window.
fn logits<'b>(
    pass: &Pass<'_, 'b>,
    ropes: &[Rotary<Tensor<'b>>],
    caches: &[LayerCache<Tensor<'b>>],
    [token, position]: [Tensor<'b>; 2],
    place: Place<'b>,
    length: usize,
) -> (Tensor<'b>, Vec<LayerCache<Tensor<'b>>>) {
    let gemma = &pass.spec.gemma;
    let rows = token.size(0);
    let column = |x: Tensor<'b>| x.reshape(&[rows, 1]);
    let tokens = Tokens {
        batch: rows as usize,
        rotations: rotations(ropes.to_vec(), column(position)),
    };
    let mut updated: Vec<LayerCache<Tensor<'b>>> = Vec::with_capacity(caches.len());
    let mut stream = gemma.embed(pass, column(token));
    for block in &gemma.layers {
        stream = block.forward(pass, stream, &tokens, Kept::All, |attention, new| {
            let spec = attention.spec();
            let ring = Ring::of(spec.window, length);
            let write = |places| ring.map_or(places, |ring| ring.slot(places));
            if let Some(new) = new.cache {
                let old = caches[spec.cache];
                updated.push(match place {
                    Place::Shared { slot, .. } => update_cache(pass, old, new, write(slot)),
                    Place::Own { slots } => update_rows(pass, old, new, write(slots)),
                });
            }
            let call = CachedAttention {
                queries: new.queries,
                cache: updated[spec.cache],
                place,
                ring: ring.map(|ring| ring.view(place.of_rows(rows), position)),
            };
            attention.attend_cached(pass, call)
        });
    }
    let logits = gemma.logits(pass, gemma.final_norm(pass, stream.x));
    (logits, updated)
}

/// `tokens` [rows, chunk] with `token` \[rows\] in column `step` (s32).
pub(super) fn write_column<'b>(
    tokens: Tensor<'b>,
    token: Tensor<'b>,
    step: Tensor<'b>,
) -> Tensor<'b> {
    let zero = tokens.builder().integer(0);
    tokens.dynamic_update(token.reshape(&[token.size(0), 1]), &[zero, step])
}
