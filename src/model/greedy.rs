//! The greedy choice of the next token, and whether rows have ended.

use hlo::{ElementType, Tensor};

use super::pass::Pass;

/// The greedy choice for each row of `logits` [rows, share of the vocabulary]: s32 [rows], the
/// lowest id on ties.
///
/// Over a model axis each device chooses among its own, and the best of these choices is taken: on
/// ties the first device's, which has the lowest id.
pub(super) fn greedy<'b>(pass: &Pass<'_, 'b>, logits: Tensor<'b>) -> Tensor<'b> {
    pass.scoped("greedy", || {
        let (best, index) = pass.ops.argmax(logits);
        let Some(offset) = pass.vocabulary_offset() else {
            return index;
        };
        let id = index + offset.everywhere_in(index);
        let as_row = |x: Tensor<'b>| pass.gather_over_model(x.reshape(&[1, x.size(0)]), 0);
        let (bests, ids) = (as_row(best), as_row(id));
        let (_, device) = bests.argmax(0);
        // The chosen device's id, picked by a sum in which all others are zero.
        let dims = ids.dims();
        let chosen = pass
            .b
            .indices(&dims, 0)
            .equals(device.broadcast(&dims, &[1]));
        let zeros = pass.b.filled(ElementType::S32, &dims, 0.0);
        chosen.select(ids, zeros).sum(&[0])
    })
}

/// Whether each of `tokens` [rows] (s32) is one of the end-of-sequence ids: pred [rows].
pub(super) fn is_eos<'b>(pass: &Pass<'_, 'b>, tokens: Tensor<'b>) -> Tensor<'b> {
    let none = pass.b.falses(&tokens.dims());
    let ids = pass.spec.config.eos_token_ids().iter();
    ids.fold(none, |found, &id| found | tokens.equals(f64::from(id)))
}

/// Whether all rows are done, on every device of the mesh: a scalar pred. Devices must leave the
/// decode loop together, since a collective waits for all of them.
pub(super) fn all_done<'b>(pass: &Pass<'_, 'b>, done: Tensor<'b>) -> Tensor<'b> {
    pass.all_over_data(done.all(&[0]))
}
