//! What a piece of an attention computes, written so that the compiler makes vector instructions of it.

use super::super::form::Form;
use super::{CHUNK, Stored};

/// Numbers that are worked on side by side: a vector of AVX-512, two of AVX2.
const LANES: usize = 16;
/// Keys, or values, that are widened together and share a reading of the queries, or sums.
const TOGETHER: usize = 4;
/// The longest head whose keys are widened in one go.
const PART: usize = 256;

/// Something to do with the instructions of a form.
pub(super) trait Task {
    /// Does it, with fused multiplications and additions or without.
    fn run<const FUSED: bool>(self);
}

/// Runs a task with a form's instructions. The caller has seen that the CPU has them.
pub(super) fn in_form(form: Form, task: impl Task) {
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has asked whether the CPU has the form.
        Form::Avx512Bf16 | Form::Avx512 => unsafe { avx512(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Form::Avx2 => unsafe { avx2(task) },
        _ => task.run::<false>(),
    }
}

/// # Safety
/// The CPU has these.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,fma")]
unsafe fn avx512(task: impl Task) {
    task.run::<true>();
}

/// # Safety
/// The CPU has these.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(task: impl Task) {
    task.run::<true>();
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    // Without the instruction, a fused multiplication and addition is a slow function.
    if FUSED {
        a.mul_add(b, sum)
    } else {
        a * b + sum
    }
}

/// Scores of a piece's keys for each head.
pub(super) struct Scores<'a, T> {
    /// [group, head_dim].
    pub queries: &'a [f32],
    /// [keys, head_dim].
    pub keys: &'a [T],
    /// \[keys\].
    pub mask: &'a [i32],
    pub head_dim: usize,
    pub divisor: f32,
    /// [group, CHUNK].
    pub scores: &'a mut [f32],
    /// \[group\].
    pub maxima: &'a mut [f32],
}

impl<T: Stored> Task for Scores<'_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let mut wide = [[0.0_f32; PART]; TOGETHER];
        for scores in self.scores.chunks_exact_mut(CHUNK) {
            scores[..self.mask.len()].fill(0.0);
        }
        let blocks = self.keys.chunks(TOGETHER * self.head_dim).enumerate();
        for (block, keys) in blocks {
            let first = block * TOGETHER;
            for part in (0..self.head_dim).step_by(PART) {
                let size = PART.min(self.head_dim - part);
                for (wide, key) in wide.iter_mut().zip(keys.chunks_exact(self.head_dim)) {
                    widen(wide, &key[part..part + size]);
                }
                let queries = self.queries.chunks_exact(self.head_dim);
                for (query, scores) in queries.zip(self.scores.chunks_exact_mut(CHUNK)) {
                    let products = dot_each::<FUSED>(&query[part..part + size], &wide);
                    let count = keys.len() / self.head_dim;
                    for (score, product) in scores[first..first + count].iter_mut().zip(products) {
                        *score += product;
                    }
                }
            }
        }
        for (scores, maximum) in self.scores.chunks_exact_mut(CHUNK).zip(self.maxima) {
            let mut largest = f32::NEG_INFINITY;
            for (score, &mask) in scores.iter_mut().zip(self.mask) {
                let visible = *score / self.divisor;
                *score = if mask > 0 { visible } else { f32::NEG_INFINITY };
                largest = if *score > largest { *score } else { largest };
            }
            *maximum = largest;
        }
    }
}

#[inline(always)]
fn widen<T: Stored>(wide: &mut [f32; PART], from: &[T]) {
    for (wide, from) in wide.iter_mut().zip(from) {
        *wide = from.widen();
    }
}

/// The products of a query with each of some keys.
#[inline(always)]
fn dot_each<const FUSED: bool>(query: &[f32], keys: &[[f32; PART]; TOGETHER]) -> [f32; TOGETHER] {
    let mut sums = [[0.0_f32; LANES]; TOGETHER];
    let whole = query.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for (sums, key) in sums.iter_mut().zip(keys) {
            for lane in 0..LANES {
                sums[lane] = multiply_add::<FUSED>(query[at + lane], key[at + lane], sums[lane]);
            }
        }
    }
    for at in whole..query.len() {
        for (sums, key) in sums.iter_mut().zip(keys) {
            sums[0] = multiply_add::<FUSED>(query[at], key[at], sums[0]);
        }
    }
    sums.map(|lanes| sum_of_lanes(&lanes))
}

#[inline(always)]
fn sum_of_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Turns scores into exponentials of their distance to the largest.
pub(super) struct Exponentials<'a, M> {
    /// Keys of the piece.
    pub len: usize,
    /// The largest score of a head.
    pub maximum: M,
    /// [group, CHUNK].
    pub scores: &'a mut [f32],
    /// \[group\].
    pub sums: &'a mut [f32],
}

impl<M: Fn(usize) -> f32> Task for Exponentials<'_, M> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let heads = self.scores.chunks_exact_mut(CHUNK).zip(self.sums);
        for (head, (scores, sum)) in heads.enumerate() {
            let maximum = (self.maximum)(head);
            // What is past the piece's keys, up to a whole vector, is given a weight of zero.
            let whole = self.len.next_multiple_of(LANES);
            scores[self.len..whole].fill(f32::NEG_INFINITY);
            let mut lanes = [0.0_f32; LANES];
            for scores in scores[..whole].chunks_exact_mut(LANES) {
                for lane in 0..LANES {
                    scores[lane] = exponential::<FUSED>(scores[lane] - maximum);
                    lanes[lane] += scores[lane];
                }
            }
            *sum = sum_of_lanes(&lanes);
        }
    }
}

/// eˣ for x ≤ 0, and NaN: 2ⁿ · eʳ with n the integer nearest to x / ln 2 and the Taylor polynomial of degree 7 for
/// |r| ≤ ln 2 / 2, whose remainder is below 2⁻²⁷. Zero below −87, where the result would leave the normal numbers.
#[inline(always)]
fn exponential<const FUSED: bool>(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer: float32 has no bits for fractions there.
    const ROUNDING: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough for its products with integers to be exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const COEFFICIENTS: [f32; 7] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let n = x * std::f32::consts::LOG2_E + ROUNDING - ROUNDING;
    let r = multiply_add::<FUSED>(n, -LN_2[0], x);
    let r = multiply_add::<FUSED>(n, -LN_2[1], r);
    let mut polynomial = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        polynomial = multiply_add::<FUSED>(polynomial, r, *coefficient);
    }
    polynomial = multiply_add::<FUSED>(polynomial, r, 1.0);
    // The cast saturates; what is out of range is replaced below.
    let power = f32::from_bits((((n as i32).wrapping_add(127)) << 23) as u32);
    if x < -87.0 { 0.0 } else { polynomial * power }
}

/// Values, weighted by the softmax.
pub(super) struct Mixed<'a, T, S> {
    /// The sum of exponentials of a head.
    pub sum: S,
    /// [keys, head_dim].
    pub values: &'a [T],
    pub head_dim: usize,
    /// [group, CHUNK]: exponentials.
    pub scores: &'a mut [f32],
    /// [group, head_dim].
    pub mixed: &'a mut [f32],
}

impl<T: Stored, S: Fn(usize) -> f32> Task for Mixed<'_, T, S> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let keys = self.values.len() / self.head_dim;
        for (head, weights) in self.scores.chunks_exact_mut(CHUNK).enumerate() {
            let sum = (self.sum)(head);
            for weight in &mut weights[..keys] {
                // A row that sees nothing has a sum of zero.
                *weight = if sum == 0.0 {
                    0.0
                } else {
                    T::rounded(*weight / sum)
                };
            }
            // The last block of values may be short.
            weights[keys..keys.next_multiple_of(TOGETHER)].fill(0.0);
        }
        self.mixed.fill(0.0);
        let mut wide = [[0.0_f32; PART]; TOGETHER];
        let blocks = self.values.chunks(TOGETHER * self.head_dim).enumerate();
        for (block, values) in blocks {
            let first = block * TOGETHER;
            for part in (0..self.head_dim).step_by(PART) {
                let size = PART.min(self.head_dim - part);
                let rows = values.chunks_exact(self.head_dim).len();
                for (wide, value) in wide.iter_mut().zip(values.chunks_exact(self.head_dim)) {
                    widen(wide, &value[part..part + size]);
                }
                // A weight of zero does not help against what an earlier block may have left there.
                wide[rows..].fill([0.0; PART]);
                let heads = self.scores.chunks_exact(CHUNK);
                for (weights, mixed) in heads.zip(self.mixed.chunks_exact_mut(self.head_dim)) {
                    let mixed = &mut mixed[part..part + size];
                    let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|i| weights[first + i]);
                    let [v0, v1, v2, v3] = &wide;
                    for (i, mixed) in mixed.iter_mut().enumerate() {
                        let sum = multiply_add::<FUSED>(w0, v0[i], *mixed);
                        let sum = multiply_add::<FUSED>(w1, v1[i], sum);
                        let sum = multiply_add::<FUSED>(w2, v2[i], sum);
                        *mixed = multiply_add::<FUSED>(w3, v3[i], sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let right = f64::from(x).exp();
            for found in [exponential::<false>(x), exponential::<true>(x)] {
                let unit =
                    f64::from(found).max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                worst = worst.max((f64::from(found) - right).abs() / unit);
            }
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!(exponential::<true>(0.0), 1.0);
    }

    #[test]
    fn the_exponential_of_far_and_undefined_numbers_is_zero_and_undefined() {
        for far in [-88.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exponential::<false>(far), 0.0);
            assert_eq!(exponential::<true>(far), 0.0);
        }
        assert!(exponential::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn sixteen_bits_are_rounded_to_nearest_even() {
        for bits in (0..0x7f80_0000_u32).step_by(7919) {
            let value = f32::from_bits(bits);
            let expected = half::bf16::from_f32(value).to_f32();
            assert_eq!(half::bf16::rounded(value), expected, "{value}");
        }
    }
}
