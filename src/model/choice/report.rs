//! The logarithms of probabilities that a choice is reported with.

use hlo::{ElementType, Tensor};

use super::super::pass::Pass;
use super::{ChoiceState, greatest};

const F32: ElementType = ElementType::F32;

/// Notes, at `step`, the chosen `token` (s32 \[rows\]) and the `count` most likely ones by the
/// model's own `logits` [rows, share of the vocabulary].
pub(super) fn report<'b>(
    pass: &Pass<'_, 'b>,
    count: usize,
    state: &mut ChoiceState<Tensor<'b>>,
    logits: Tensor<'b>,
    token: Tensor<'b>,
    step: Tensor<'b>,
) {
    let zero = pass.b.integer(0);
    let rows = token.size(0);
    let total = log_sum_exp(pass, logits);
    let chosen = at(pass, logits, token) - total;
    state.logprob = state
        .logprob
        .map(|all| all.dynamic_update(chosen.reshape(&[rows, 1]), &[zero, step]));
    let (Some(top_ids), Some(top_logprobs)) = (state.top_ids, state.top_logprobs) else {
        return;
    };
    let (ids, values) = greatest_logprobs(pass, logits, total, count);
    let dims = [rows, 1, count as i64];
    let places = [zero, step, zero];
    state.top_ids = Some(top_ids.dynamic_update(ids.reshape(&dims), &places));
    state.top_logprobs = Some(top_logprobs.dynamic_update(values.reshape(&dims), &places));
}

/// The `count` most likely tokens of each row by its `logits` [rows, share of the vocabulary], whose
/// exponentials have the sum whose logarithm is `total` (f32 \[rows\]): ids, s32, and the
/// logarithms of their probabilities, f32, both [rows, count].
pub(in crate::model) fn greatest_logprobs<'b>(
    pass: &Pass<'_, 'b>,
    logits: Tensor<'b>,
    total: Tensor<'b>,
    count: usize,
) -> (Tensor<'b>, Tensor<'b>) {
    let (values, ids) = greatest(pass, logits, count);
    let values = values.convert(F32) - total.broadcast(&values.dims(), &[0]);
    (ids, values)
}

/// The logarithm of the sum of the exponentials of each row of `logits` [rows, share of the
/// vocabulary], over the whole vocabulary: f32 \[rows\].
pub(in crate::model) fn log_sum_exp<'b>(pass: &Pass<'_, 'b>, logits: Tensor<'b>) -> Tensor<'b> {
    let x = logits.convert(F32);
    let greatest = pass.greatest_over_model(x.greatest(&[1]));
    let weights = (x - greatest.broadcast(&x.dims(), &[0])).exp();
    pass.sum_over_model(weights.sum(&[1])).log() + greatest
}

/// The logit of each row's `token` (s32 \[rows\]): f32 \[rows\].
pub(in crate::model) fn at<'b>(
    pass: &Pass<'_, 'b>,
    logits: Tensor<'b>,
    token: Tensor<'b>,
) -> Tensor<'b> {
    let [rows, share] = logits.sizes();
    let local = match pass.vocabulary_offset() {
        None => token,
        Some(offset) => token - offset.everywhere_in(token),
    };
    let is_here = local.at_least(0.0) & local.less(share as f64);
    let place = local.max(0.0).min((share - 1) as f64);
    let row = pass.b.indices(&[rows], 0);
    let all = logits.convert(F32).reshape(&[rows * share, 1]);
    let found = all.rows(row * share as f64 + place).reshape(&[rows]);
    let zeros = pass.b.filled(F32, &[rows], 0.0);
    pass.sum_over_model(is_here.select(found, zeros))
}
