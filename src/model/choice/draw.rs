//! Drawing tokens: the filters of Flax's `generate` in its order, then JAX's `categorical`.

use hlo::{ElementType, Tensor};

use super::super::greedy::greedy;
use super::super::pass::Pass;
use super::noise::{bits, gumbel, split};
use super::{ChoiceState, Draw, greatest, ids, picked};

const F32: ElementType = ElementType::F32;
const U32: ElementType = ElementType::U32;

/// Draws a token for each row of `logits` [rows, share of the vocabulary], s32 \[rows\]; the
/// state's keys are then those of the next step.
pub(super) fn draw<'b>(
    pass: &Pass<'_, 'b>,
    draw: Draw,
    state: &mut ChoiceState<Tensor<'b>>,
    logits: Tensor<'b>,
) -> Tensor<'b> {
    let (Some(key), Some(counter), Some(temperature)) =
        (state.key, state.counter, state.temperature)
    else {
        return greedy(pass, logits);
    };
    let [drawn, next] = split(key);
    state.key = Some(next);
    let given = logits;
    let divisor = temperature.convert(logits.element_type());
    let logits = given / divisor.broadcast(&logits.dims(), &[0]);
    let noise = |ids: Tensor<'b>, to| gumbel(bits(drawn, counter, ids), to);
    let among = draw.candidates.map(|count| {
        let (values, ids) = greatest(pass, logits, count);
        // Flax's top-k gives float32 whatever it is given, and so the noise is.
        let kept = filtered_candidates(state, values.convert(F32));
        let (_, place) = (kept + noise(ids, F32)).argmax(1);
        picked(ids, place)
    });
    let whole = (draw.whole || draw.candidates.is_none()).then(|| {
        let kept = match (state.top_p, state.min_p) {
            (Some(top_p), Some(min_p)) => filtered(pass, logits, top_p, min_p),
            _ => logits,
        };
        // Each device makes the noise of its share.
        let noise = noise(ids(pass, &logits.dims()), logits.element_type());
        greedy(pass, kept + noise)
    });
    let drawn = match (among, whole, state.top_k) {
        (Some(among), Some(whole), Some(top_k)) => top_k.at_most(0.0).select(whole, among),
        (Some(only), _, _) | (None, Some(only), _) => only,
        (None, None, _) => greedy(pass, logits),
    };
    match draw.mixed {
        true => temperature.at_most(0.0).select(greedy(pass, given), drawn),
        false => drawn,
    }
}

/// The candidates [rows, count], the greatest first, with −∞ for those that the filters leave out.
fn filtered_candidates<'b>(state: &ChoiceState<Tensor<'b>>, values: Tensor<'b>) -> Tensor<'b> {
    let b = values.builder();
    let [rows, count] = values.sizes();
    let dims = [rows, count];
    let of_rows = |x: Tensor<'b>| x.broadcast(&dims, &[0]);
    let lowest = b.filled(F32, &dims, f64::NEG_INFINITY);
    let mut values = values;
    if let Some(top_k) = state.top_k {
        values = b
            .indices(&dims, 1)
            .less(of_rows(top_k))
            .select(values, lowest);
    }
    let (Some(top_p), Some(min_p)) = (state.top_p, state.min_p) else {
        return values;
    };
    let first = values.slice(1, 0, 1).reshape(&[rows]);
    let weights = (values - of_rows(first)).exp();
    let probabilities = weights / of_rows(weights.sum(&[1]));
    // The probability of all before each one.
    let before = match count {
        1 => b.filled(F32, &dims, 0.0),
        _ => {
            let none = b.filled(F32, &[rows, 1], 0.0);
            none.concat(&[probabilities.cumsum(1).slice(1, 0, count - 1)], 1)
        }
    };
    let top_p = of_rows(top_p);
    let in_nucleus = before.less(top_p) | top_p.at_least(1.0);
    let likely = weights.at_least(of_rows(min_p));
    (in_nucleus & likely).select(values, lowest)
}

/// `logits` [rows, share of the vocabulary] with −∞ for those that `top_p` and `min_p` leave out.
fn filtered<'b>(
    pass: &Pass<'_, 'b>,
    logits: Tensor<'b>,
    top_p: Tensor<'b>,
    min_p: Tensor<'b>,
) -> Tensor<'b> {
    let dims = logits.dims();
    let of_rows = |x: Tensor<'b>| x.broadcast(&dims, &[0]);
    let wide = logits.convert(F32);
    let greatest = pass.greatest_over_model(wide.greatest(&[1]));
    let weights = (wide - of_rows(greatest)).exp();
    let total = pass.sum_over_model(weights.sum(&[1]));
    let in_nucleus = nucleus(pass, wide, weights, total * top_p);
    let kept = (in_nucleus | of_rows(top_p).at_least(1.0)) & weights.at_least(of_rows(min_p));
    let lowest = pass
        .b
        .filled(logits.element_type(), &dims, f64::NEG_INFINITY);
    kept.select(logits, lowest)
}

/// Where `x` [rows, share] (f32) is among the greatest elements whose `weights` reach `target`
/// \[rows\] together, the last of them included: pred. Of equal elements the first ones count.
///
/// No row is sorted. The least element that belongs to them is found bit by bit, as an integer in
/// the order of the floats; each bit needs a sum. Where not all that equal it belong to them, those
/// that do are found in the same way, by their ids.
fn nucleus<'b>(
    pass: &Pass<'_, 'b>,
    x: Tensor<'b>,
    weights: Tensor<'b>,
    target: Tensor<'b>,
) -> Tensor<'b> {
    let dims = x.dims();
    let spread = |x: Tensor<'b>| x.broadcast(&dims, &[0]);
    let order = ordered(x);
    let rounds = pass.b.integer(32);
    let constants = [order, weights, target];
    let least = greatest_where(
        pass,
        31,
        rounds,
        constants,
        |pass, bound, [order, weights, target]| {
            let dims = order.dims();
            let above = order.at_least(bound.broadcast(&dims, &[0]));
            let zeros = pass.b.filled(F32, &dims, 0.0);
            let sum = pass.sum_over_model(above.select(weights, zeros).sum(&[1]));
            sum.at_least(target)
        },
    );
    let (above, equal) = (order.greater(spread(least)), order.equals(spread(least)));
    let zeros = pass.b.filled(F32, &dims, 0.0);
    let sum = |of: Tensor<'b>| pass.sum_over_model(of.select(weights, zeros).sum(&[1]));
    let (weight_above, weight_equal) = (sum(above), sum(equal));
    let ones = pass.b.filled(F32, &dims, 1.0);
    let count = pass.sum_over_model(equal.select(ones, zeros).sum(&[1]));
    // How many of the equal ones are wanted: the quotient rounded up, at least one.
    let share = (target - weight_above) * count / weight_equal;
    let wanted = share.ceil().max(1.0);
    let id = ids(pass, &dims);
    let id = id.convert(U32);
    let none = pass.b.filled(U32, &dims, f64::from(u32::MAX));
    let equal_ids = equal.select(id, none);
    let all_wanted = pass.all_over_data(wanted.at_least(count).all(&[0]));
    let limit = limit_of(pass, all_wanted, equal_ids, wanted);
    above | (equal & id.less(spread(limit)))
}

/// The greatest id below which there are at most `wanted` of `ids` in each row, u32 \[rows\];
/// beyond all ids where `all` (a scalar pred) says that all are wanted.
fn limit_of<'b>(
    pass: &Pass<'_, 'b>,
    all: Tensor<'b>,
    ids: Tensor<'b>,
    wanted: Tensor<'b>,
) -> Tensor<'b> {
    let rounds = all.select(pass.b.integer(0), pass.b.integer(31));
    let constants = [ids, wanted, wanted];
    let found = greatest_where(
        pass,
        30,
        rounds,
        constants,
        |pass, bound, [ids, wanted, _]| {
            let dims = ids.dims();
            let below = ids.less(bound.broadcast(&dims, &[0])).convert(F32);
            pass.sum_over_model(below.sum(&[1])).at_most(wanted)
        },
    );
    let beyond = pass.b.filled(U32, &wanted.dims(), f64::from(u32::MAX));
    all.everywhere_in(beyond).select(beyond, found)
}

/// The greatest integers below 2^(`top` + 1) for which `holds`, u32 of the sizes of the last of
/// `constants`, found in `rounds` (s32), a bit each, the highest first. Where it holds of a number
/// it must hold of all below it, and of 0.
fn greatest_where<'b>(
    pass: &Pass<'_, 'b>,
    top: u32,
    rounds: Tensor<'b>,
    constants: [Tensor<'b>; 3],
    holds: impl for<'c> Fn(&Pass<'_, 'c>, Tensor<'c>, [Tensor<'c>; 3]) -> Tensor<'c>,
) -> Tensor<'b> {
    let (b, spec) = (pass.b, pass.spec);
    let dims = constants[2].dims();
    let mut state = vec![
        b.integer(0),
        rounds,
        b.filled(U32, &dims, 0.0),
        b.filled(U32, &dims, f64::from(1_u32 << top)),
    ];
    state.extend(constants);
    let end = b.loop_while(
        state,
        |_, state| state[0].less(state[1]),
        |b, mut state| {
            // The loop's body sees no parameters, and needs none.
            let pass = Pass::new(b, spec, Vec::new());
            let (found, bit) = (state[2], state[3]);
            let bound = found | bit;
            let holds = holds(&pass, bound, [state[4], state[5], state[6]]);
            state[0] = state[0] + 1.0;
            state[2] = holds.select(bound, found);
            state[3] = bit >> 1;
            state
        },
    );
    end[2]
}

/// Floats (f32) as unsigned integers that have their order.
fn ordered(x: Tensor<'_>) -> Tensor<'_> {
    let bits = x.bits_as(U32);
    let sign = x.builder().filled(U32, &x.dims(), f64::from(1_u32 << 31));
    let is_negative = bits.at_least(sign);
    is_negative.select(!bits, bits | sign)
}
