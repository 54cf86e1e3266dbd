//! What the product computes.

use half::bf16;
use proptest::prelude::*;

use super::pool::Pool;
use super::product::{ProductSizes, multiply};
use super::{Element, InstructionSet};

/// Numbers between −1 and 1 without a pattern, from a linear congruential generator.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}

trait Number: Element + std::fmt::Debug {
    fn from_f32(value: f32) -> Self;
    fn to_f64(self) -> f64;
}

impl Number for bf16 {
    fn from_f32(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn to_f64(self) -> f64 {
        self.into()
    }
}

impl Number for f32 {
    fn from_f32(value: f32) -> f32 {
        value
    }
    fn to_f64(self) -> f64 {
        self.into()
    }
}

fn instruction_sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL
        .into_iter()
        .filter(|instructions| instructions.is_available())
}

fn operands<W: Number>(sizes: ProductSizes) -> (Vec<W>, Vec<W>) {
    let numbers = |seed, count| noise(seed, count).into_iter().map(W::from_f32).collect();
    (
        numbers(1, sizes.rows * sizes.inputs),
        numbers(2, sizes.outputs * sizes.inputs),
    )
}

fn product<W: Number>(
    threads: usize,
    instructions: InstructionSet,
    sizes: ProductSizes,
    x: &[W],
    w: &[W],
) -> Vec<f32> {
    // What is not written shows.
    let mut y = vec![f32::MAX; sizes.rows * sizes.outputs];
    multiply(&Pool::new(threads), instructions, sizes, x, w, &mut y);
    y
}

/// Compares a product with one in float64, sum by sum: the error of a sum of n products in float32
/// is at most n · 2⁻²⁴ · Σ|xᵢwᵢ|, to first order, in any order of summing.
fn check<W: Number>(threads: usize, instructions: InstructionSet, sizes: ProductSizes) {
    let (x, w) = operands::<W>(sizes);
    let y = product(threads, instructions, sizes, &x, &w);
    for row in 0..sizes.rows {
        for output in 0..sizes.outputs {
            let x = &x[row * sizes.inputs..][..sizes.inputs];
            let w = &w[output * sizes.inputs..][..sizes.inputs];
            let terms = || x.iter().zip(w).map(|(&x, &w)| x.to_f64() * w.to_f64());
            let exact: f64 = terms().sum();
            let bound =
                (sizes.inputs + 1) as f64 * 2_f64.powi(-24) * terms().map(f64::abs).sum::<f64>();
            let got = f64::from(y[row * sizes.outputs + output]);
            assert!(
                (got - exact).abs() <= bound * 1.001 + 1e-30,
                "{instructions} {sizes:?} row {row} output {output}: {got}, not {exact} within {bound}"
            );
        }
    }
}

#[test]
fn every_form_agrees_with_float64_for_any_number_of_rows() {
    for instructions in instruction_sets() {
        for rows in 1..=20 {
            let sizes = ProductSizes {
                rows,
                inputs: 77,
                outputs: 29,
            };
            check::<bf16>(2, instructions, sizes);
            check::<f32>(2, instructions, sizes);
        }
    }
}

#[test]
fn every_form_agrees_with_float64_for_sizes_of_models() {
    for instructions in instruction_sets() {
        for (rows, inputs, outputs) in [
            (1, 2048, 256),
            (8, 2048, 130),
            (3, 16384, 40),
            (70, 512, 50),
        ] {
            let sizes = ProductSizes {
                rows,
                inputs,
                outputs,
            };
            check::<bf16>(2, instructions, sizes);
            check::<f32>(3, instructions, sizes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_form_agrees_with_float64_for_any_sizes(
        rows in 1..80_usize,
        inputs in 1..300_usize,
        outputs in 1..120_usize,
        threads in 1..4_usize,
    ) {
        let sizes = ProductSizes { rows, inputs, outputs };
        for instructions in instruction_sets() {
            check::<bf16>(threads, instructions, sizes);
            check::<f32>(threads, instructions, sizes);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let sizes = ProductSizes {
        rows: 67,
        inputs: 1000,
        outputs: 101,
    };
    let (x, w) = operands::<bf16>(sizes);
    for instructions in instruction_sets() {
        let together = product(3, instructions, sizes, &x, &w);
        for rows in [1, 2, 3, 5, 8, 9, 13, 64] {
            let part = ProductSizes { rows, ..sizes };
            let alone = product(1, instructions, part, &x[..rows * sizes.inputs], &w);
            assert_eq!(
                alone,
                together[..rows * sizes.outputs],
                "{instructions}, {rows} rows"
            );
        }
    }
}

#[test]
fn an_empty_sum_is_zero_and_an_empty_result_is_left_alone() {
    for instructions in instruction_sets() {
        for (rows, inputs, outputs) in [(2, 0, 3), (0, 5, 3), (2, 5, 0), (0, 0, 0)] {
            let sizes = ProductSizes {
                rows,
                inputs,
                outputs,
            };
            let (x, w) = operands::<bf16>(sizes);
            assert_eq!(
                product(2, instructions, sizes, &x, &w),
                vec![0.0; rows * outputs]
            );
        }
    }
}

#[test]
fn infinities_and_nan_reach_the_sums_they_are_in_and_no_others() {
    let sizes = ProductSizes {
        rows: 3,
        inputs: 45,
        outputs: 7,
    };
    for instructions in instruction_sets() {
        // In the middle, and in the tail behind the last whole step.
        for place in [3, 44] {
            for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut x, mut w) = operands::<bf16>(sizes);
                x.iter_mut().for_each(|x| *x = bf16::ONE);
                w[4 * sizes.inputs + place] = bf16::from_f32(special);
                let y = product(2, instructions, sizes, &x, &w);
                for (index, &sum) in y.iter().enumerate() {
                    if index % sizes.outputs != 4 {
                        assert!(sum.is_finite(), "{instructions}: {sum} at {index}");
                    } else if special.is_nan() {
                        assert!(sum.is_nan(), "{instructions}: {sum} at {index}");
                    } else {
                        assert_eq!(sum, special, "{instructions} at {index}");
                    }
                }
            }
        }
    }
}

#[test]
fn sums_are_rounded_to_the_nearest_bfloat16_where_that_is_asked_for() {
    let sizes = ProductSizes {
        rows: 2,
        inputs: 64,
        outputs: 9,
    };
    let (x, w) = operands::<bf16>(sizes);
    let pool = Pool::new(1);
    for instructions in instruction_sets() {
        let mut rounded = vec![bf16::MAX; sizes.rows * sizes.outputs];
        multiply(&pool, instructions, sizes, &x, &w, &mut rounded);
        let sums = product(1, instructions, sizes, &x, &w);
        let expected: Vec<bf16> = sums.into_iter().map(bf16::from_f32).collect();
        assert_eq!(rounded, expected, "{instructions}");
    }
}

#[test]
fn products_may_run_at_the_same_time() {
    let sizes = ProductSizes {
        rows: 4,
        inputs: 256,
        outputs: 500,
    };
    let (x, w) = operands::<bf16>(sizes);
    let instructions = InstructionSet::best();
    let expected = product(1, instructions, sizes, &x, &w);
    let pool = Pool::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut y = vec![f32::MAX; expected.len()];
                    multiply(&pool, instructions, sizes, &x, &w, &mut y);
                    assert_eq!(y, expected);
                }
            });
        }
    });
}

#[test]
fn a_panic_in_a_chunk_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3);
    for bad in [0, 50, 99] {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(100, &|chunk| assert_ne!(chunk, bad, "a bad chunk"));
        }));
        assert!(outcome.is_err());
    }
    let calls = std::sync::atomic::AtomicUsize::new(0);
    pool.run(100, &|_| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(calls.into_inner(), 100);
}
