//! What an item of an attention computes, written so that the compiler vectorizes it.

use super::super::instruction_set::InstructionSet;
use super::functions::{exponential, multiply_add, tanh};
use super::{CHUNK, Stored};

/// Numbers that are computed in parallel: a vector of AVX-512, two of AVX2.
const LANES: usize = 16;
/// Keys, or values, that are widened together and share a reading of the queries, or sums.
const TOGETHER: usize = 4;
/// The longest head whose keys are widened in one go.
const PART: usize = 256;

/// A computation to run with an instruction set.
pub(super) trait Task {
    /// Runs it, with fused multiplications and additions or without.
    fn run<const FUSED: bool>(self);
}

/// Runs a task with an instruction set. The caller has checked that the CPU has it.
pub(super) fn with_instructions(instructions: InstructionSet, task: impl Task) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has checked that the CPU has the instructions.
        InstructionSet::Avx512Bf16 | InstructionSet::Avx512 => unsafe { avx512(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx2 => unsafe { avx2(task) },
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

/// The scores of an item's keys for each head.
pub(super) struct Scores<'a, T> {
    /// [group, head_dim].
    pub queries: &'a [f32],
    /// [keys, head_dim].
    pub keys: &'a [T],
    /// \[keys\].
    pub mask: &'a [i32],
    pub head_dim: usize,
    /// What the products are multiplied by and then divided by, which gives the scores.
    pub factor: f32,
    pub divisor: f32,
    /// The cap `c` of scores `s`, which become c · tanh(s / c).
    pub softcap: Option<f32>,
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
            let scores = &mut scores[..self.mask.len()];
            for score in scores.iter_mut() {
                *score = *score * self.factor / self.divisor;
            }
            if let Some(cap) = self.softcap {
                for score in scores.iter_mut() {
                    *score = cap * tanh::<FUSED>(*score / cap);
                }
            }
            let mut largest = f32::NEG_INFINITY;
            for (score, &mask) in scores.iter_mut().zip(self.mask) {
                *score = if mask > 0 { *score } else { f32::NEG_INFINITY };
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
    /// Keys of the item.
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
            // What is past the item's keys, up to a whole vector, gets a weight of zero.
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
                // A weight of zero would not hide an infinity or NaN that an earlier block has left
                // there.
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
