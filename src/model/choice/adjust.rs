//! What is done to logits before a choice, and the row's tokens that it depends on.

use hlo::{BinaryOp, ElementType, Tensor};

use super::super::greedy::is_eos;
use super::super::pass::Pass;
use super::{Choice, ChoiceInputs, ChoiceState, ids, share};

const F32: ElementType = ElementType::F32;
const S32: ElementType = ElementType::S32;

/// What is made of the inputs once a call.
pub(super) struct Adjusted<'b> {
    pub bias: Option<Tensor<'b>>,
    pub not_first: Option<Tensor<'b>>,
    pub seen: Option<Tensor<'b>>,
    pub replied: Option<Tensor<'b>>,
}

/// Spreads lists of ids over the vocabulary, and counts the tokens that rows have.
pub(super) fn begin<'b>(pass: &Pass<'_, 'b>, inputs: ChoiceInputs<Tensor<'b>>) -> Adjusted<'b> {
    let share = share(pass.spec);
    let spread = |ids: Tensor<'b>, values: Tensor<'b>| {
        let zeros = pass
            .b
            .filled(values.element_type(), &[ids.size(0), share], 0.0);
        zeros.merged_at(on_device(pass, ids), values, BinaryOp::Add)
    };
    let counted = |ids: Tensor<'b>| {
        let [rows, _] = ids.sizes();
        let zeros = pass.b.filled(S32, &[rows, share], 0.0);
        let ones = pass.b.filled(S32, &ids.dims(), 1.0);
        zeros.merged_at(on_device(pass, ids), ones, BinaryOp::Add)
    };
    let (mut seen, mut replied) = (None, None);
    if let (Some(history), Some(tokens), Some(generated), Some(_)) = (
        inputs.history,
        inputs.tokens,
        inputs.generated,
        inputs.repetition,
    ) {
        let dims = history.dims();
        let place = pass.b.indices(&dims, 1);
        let is_reply = place.at_least((tokens - generated).broadcast(&dims, &[0]));
        let none = pass.b.filled(S32, &dims, -1.0);
        seen = Some(counted(history));
        replied = Some(counted(is_reply.select(history, none)));
    }
    Adjusted {
        bias: inputs
            .bias_ids
            .zip(inputs.bias)
            .map(|(ids, bias)| spread(ids, bias)),
        not_first: inputs.not_first.map(|ids| {
            let ones = pass.b.filled(S32, &ids.dims(), 1.0);
            spread(ids, ones).greater(0.0)
        }),
        seen,
        replied,
    }
}

/// The logits [rows, share of the vocabulary] that a choice is made from.
pub(super) fn adjust<'b>(
    pass: &Pass<'_, 'b>,
    choice: Choice,
    state: &ChoiceState<Tensor<'b>>,
    logits: Tensor<'b>,
) -> Tensor<'b> {
    if !choice.adjusts() {
        return logits;
    }
    let (dims, element_type) = (logits.dims(), logits.element_type());
    let of_rows = |x: Tensor<'b>| x.broadcast(&dims, &[0]);
    let lowest = pass.b.filled(F32, &dims, f64::NEG_INFINITY);
    let mut x = logits.convert(F32);
    if let Some(bias) = state.bias {
        x = x + bias;
    }
    if let (Some(seen), Some(replied), Some(repetition), Some(presence), Some(frequency)) = (
        state.seen,
        state.replied,
        state.repetition,
        state.presence,
        state.frequency,
    ) {
        let repetition = of_rows(repetition);
        let penalised = x.less(0.0).select(x * repetition, x / repetition);
        x = seen.greater(0.0).select(penalised, x);
        let times = replied.convert(F32);
        x = x - of_rows(frequency) * times - of_rows(presence) * times.min(1.0);
    }
    let mut banned: Vec<Tensor<'b>> = Vec::new();
    if let (Some(history), Some(tokens)) = (state.history, state.tokens) {
        if choice.ngram > 0 {
            banned.push(repeated(pass, choice.ngram as i64, history, tokens));
        }
        if let Some(words) = state.words {
            banned.push(completed(pass, words, history, tokens));
        }
    }
    for ids in banned {
        let ids = on_device(pass, ids);
        let updates = pass.b.filled(F32, &ids.dims(), f64::NEG_INFINITY);
        x = x.merged_at(ids, updates, BinaryOp::Min);
    }
    if let Some(generated) = state.generated {
        let mut early = Vec::new();
        if let Some(not_first) = state.not_first {
            early.push(not_first & of_rows(generated.at_most(0.0)));
        }
        if let Some(late_eos) = state.late_eos {
            let eos = is_eos(pass, ids(pass, &[dims[1]])).broadcast(&dims, &[1]);
            early.push(eos & of_rows(generated.less(late_eos)));
        }
        for early in early {
            x = early.select(lowest, x);
        }
    }
    if let Some(allowed) = state.allowed {
        x = allowed.select(x, lowest);
    }
    x.convert(element_type)
}

/// Takes the chosen `token` (s32 \[rows\]) into the row's tokens.
pub(super) fn note_token<'b>(
    pass: &Pass<'_, 'b>,
    state: &mut ChoiceState<Tensor<'b>>,
    token: Tensor<'b>,
) {
    if let (Some(history), Some(tokens)) = (state.history, state.tokens) {
        let dims = history.dims();
        let here = pass
            .b
            .indices(&dims, 1)
            .equals(tokens.broadcast(&dims, &[0]));
        state.history = Some(here.select(token.broadcast(&dims, &[0]), history));
        state.tokens = Some(tokens + 1.0);
    }
    let counted = |counts: Tensor<'b>| {
        let column = token.reshape(&[token.size(0), 1]);
        let one = pass.b.filled(S32, &column.dims(), 1.0);
        counts.merged_at(on_device(pass, column), one, BinaryOp::Add)
    };
    state.seen = state.seen.map(counted);
    state.replied = state.replied.map(counted);
    state.generated = state.generated.map(|generated| generated + 1.0);
}

impl Choice {
    /// Whether the logits that a choice is made from differ from the model's.
    fn adjusts(self) -> bool {
        self.penalties
            || self.biases > 0
            || self.not_first > 0
            || self.late_eos
            || self.has_words()
            || self.ngram > 0
            || self.allowed
    }
}

/// Ids as places in this device's share of the vocabulary; what is outside of it is outside of the
/// share, which [`Tensor::merged_at`] leaves out.
fn on_device<'b>(pass: &Pass<'_, 'b>, ids: Tensor<'b>) -> Tensor<'b> {
    match pass.vocabulary_offset() {
        None => ids,
        Some(offset) => ids - offset.everywhere_in(ids),
    }
}

/// The last `count` tokens of each row, [rows, count]; -1 where it has fewer.
fn last<'b>(
    pass: &Pass<'_, 'b>,
    count: i64,
    history: Tensor<'b>,
    tokens: Tensor<'b>,
) -> Tensor<'b> {
    let [rows, length] = history.sizes();
    let dims = [rows, count, length];
    let wanted = tokens.broadcast(&dims, &[0]) - count as f64 + pass.b.indices(&dims, 1);
    let here = pass.b.indices(&dims, 2).equals(wanted);
    let zeros = pass.b.filled(S32, &dims, 0.0);
    // One more, so that nothing found gives -1.
    let found = here.select(history.broadcast(&dims, &[0, 2]) + 1.0, zeros);
    found.sum(&[2]) - 1.0
}

/// The tokens after which a sequence of `length` tokens would occur a second time in its row,
/// [rows, places]; -1 where a place has none.
fn repeated<'b>(
    pass: &Pass<'_, 'b>,
    length: i64,
    history: Tensor<'b>,
    tokens: Tensor<'b>,
) -> Tensor<'b> {
    let [rows, slots] = history.sizes();
    let places = (slots - length + 1).max(1);
    let dims = [rows, places];
    let end = (length - 1).min(slots - places);
    let follows = history.slice(1, end, end + places);
    let place = pass.b.indices(&dims, 1) + end as f64;
    let mut matches = place.less(tokens.broadcast(&dims, &[0]));
    if length > 1 {
        let last = last(pass, length - 1, history, tokens);
        for index in 0..length - 1 {
            let wanted = last.slice(1, index, index + 1).reshape(&[rows]);
            let here = history.slice(1, index, index + places);
            matches = matches & here.equals(wanted.broadcast(&dims, &[0]));
        }
    }
    let none = pass.b.filled(S32, &dims, -1.0);
    matches.select(follows, none)
}

/// The tokens that would complete one of `words` [rows, count, length], [rows, count]; -1 where a
/// row's last tokens are not the beginning of that word.
fn completed<'b>(
    pass: &Pass<'_, 'b>,
    words: Tensor<'b>,
    history: Tensor<'b>,
    tokens: Tensor<'b>,
) -> Tensor<'b> {
    let [rows, count, length] = words.sizes();
    let dims = [rows, count];
    let ends = words.slice(2, length - 1, length).reshape(&dims);
    if length == 1 {
        return ends;
    }
    let last = last(pass, length - 1, history, tokens);
    let wanted = words.slice(2, 0, length - 1);
    let last = last.broadcast(&wanted.dims(), &[0, 2]);
    let agrees = wanted.equals(last) | wanted.equals(-2.0);
    let none = pass.b.filled(S32, &dims, -1.0);
    agrees.all(&[2]).select(ends, none)
}
