//! Attention against the formula in float64.

use std::num::NonZero;

use super::*;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.0 - 1.0)
        .collect()
}

struct Case {
    sizes: AttentionSizes,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mask: Vec<i32>,
    slots: Vec<usize>,
    variant: Variant,
}

impl Case {
    fn new(rows: usize, kv_heads: usize, group: usize, cache: usize, head_dim: usize) -> Self {
        let sizes = AttentionSizes {
            rows,
            kv_heads,
            group,
            cache,
            head_dim,
        };
        Self {
            sizes,
            queries: numbers(sizes.queries(), 1)
                .iter()
                .map(|q| q * 3.0)
                .collect(),
            keys: numbers(sizes.keys(), 2),
            values: numbers(sizes.keys(), 3),
            // Each row begins a little later.
            mask: (0..rows * cache)
                .map(|i| i32::from(i % cache >= i / cache * 3))
                .collect(),
            slots: vec![cache - 2; rows],
            variant: Variant::default(),
        }
    }

    fn run<T: Stored>(&self, instructions: InstructionSet, threads: usize) -> Vec<f32> {
        let stored = |values: &[f32]| -> Vec<T> { values.iter().map(|&x| T::nearest(x)).collect() };
        let (queries, keys, values) = (
            stored(&self.queries),
            stored(&self.keys),
            stored(&self.values),
        );
        let input = Input {
            queries: &queries,
            keys: &keys,
            values: &values,
            mask: &self.mask,
            slots: &self.slots,
            variant: self.variant,
        };
        let mut result = stored(&vec![7.0; self.sizes.queries()]);
        attend(
            &Pool::new(threads),
            instructions,
            self.sizes,
            &input,
            &mut result,
        );
        result.into_iter().map(T::widen).collect()
    }

    /// The formula in float64, on numbers as `T` stores them.
    fn expected<T: Stored>(&self) -> Vec<f64> {
        let AttentionSizes {
            kv_heads,
            group,
            cache,
            head_dim,
            ..
        } = self.sizes;
        let stored = |x: f32| f64::from(T::nearest(x).widen());
        let mut result = Vec::new();
        for (head, query) in self.queries.chunks(head_dim).enumerate() {
            let unit = head / group;
            let mask = &self.mask[unit / kv_heads * cache..][..cache];
            let row = |of: &[f32], slot: usize| -> Vec<f64> {
                let start = (unit * cache + slot) * head_dim;
                of[start..start + head_dim]
                    .iter()
                    .map(|&x| stored(x))
                    .collect()
            };
            let position = self.slots[unit / kv_heads];
            let visible: Vec<usize> = (0..cache)
                .filter(|&slot| slot <= position && mask[slot] > 0)
                .filter(|&slot| {
                    let window = self.variant.window;
                    window.is_none_or(|window| position - slot < window.get())
                })
                .collect();
            let scores: Vec<f64> = visible
                .iter()
                .map(|&slot| {
                    let products = row(&self.keys, slot);
                    let products = products.iter().zip(query).map(|(k, &q)| k * stored(q));
                    let score = match self.variant.scale {
                        None => products.sum::<f64>() / (head_dim as f64).sqrt(),
                        Some(scale) => products.sum::<f64>() * f64::from(scale),
                    };
                    match self.variant.softcap {
                        None => score,
                        Some(cap) => f64::from(cap) * (score / f64::from(cap)).tanh(),
                    }
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; head_dim];
            for (weight, &slot) in weights.iter().zip(&visible) {
                let weight = f64::from(T::rounded((weight / sum) as f32));
                for (mixed, value) in mixed.iter_mut().zip(row(&self.values, slot)) {
                    *mixed += weight * value;
                }
            }
            result.extend(mixed);
        }
        result
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new(1, 1, 8, 700, 256),
        Case::new(3, 2, 2, 301, 32),
        Case::new(2, 1, 1, 64, 300),
        Case::new(1, 3, 1, 2, 7),
    ]
}

fn instruction_sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL
        .into_iter()
        .filter(|instructions| instructions.is_available())
}

/// Compares the results of every instruction set with the formula.
fn check(case: &Case) {
    let check =
        |instructions: InstructionSet, found: Vec<f32>, expected: Vec<f64>, tolerance: f64| {
            for (found, expected) in found.into_iter().zip(expected) {
                let off = (f64::from(found) - expected).abs();
                assert!(
                    off < tolerance,
                    "{instructions}, {:?}, {:?}, {:?}: {found} {expected}",
                    case.sizes,
                    case.slots,
                    case.variant
                );
            }
        };
    for instructions in instruction_sets() {
        check(
            instructions,
            case.run::<f32>(instructions, 2),
            case.expected::<f32>(),
            3e-6,
        );
        // A step of bfloat16 at 1 is 2⁻⁷; a weight near a tie may be rounded the other way.
        check(
            instructions,
            case.run::<bf16>(instructions, 2),
            case.expected::<bf16>(),
            6e-3,
        );
    }
}

fn window(slots: usize) -> Variant {
    Variant {
        window: NonZero::new(slots),
        ..Variant::default()
    }
}

#[test]
fn every_form_computes_the_formula() {
    cases().iter().for_each(check);
}

#[test]
fn a_window_hides_keys_that_are_as_far_back_as_it_is_long() {
    for mut case in cases() {
        let cache = case.sizes.cache;
        for slots in [1, 2, 7, cache / 2, cache - 1, cache, 2 * cache] {
            case.variant = window(slots.max(1));
            check(&case);
        }
    }
}

#[test]
fn a_window_that_sees_everything_changes_no_bit() {
    let mut case = Case::new(2, 1, 4, 600, 64);
    let full = case.run::<bf16>(InstructionSet::best(), 2);
    case.variant = window(600);
    assert_eq!(case.run::<bf16>(InstructionSet::best(), 2), full);
    case.variant = window(10);
    assert_ne!(case.run::<bf16>(InstructionSet::best(), 2), full);
}

#[test]
fn a_row_behind_the_window_of_its_last_key_sees_nothing() {
    let mut case = Case::new(1, 1, 2, 30, 16);
    case.mask[20..].fill(0);
    case.slots = vec![29];
    case.variant = window(9);
    for instructions in instruction_sets() {
        assert!(
            case.run::<f32>(instructions, 1).iter().all(|&x| x == 0.0),
            "{instructions}"
        );
    }
    case.variant = window(11);
    check(&case);
    assert!(
        case.run::<f32>(InstructionSet::Portable, 1)
            .iter()
            .any(|&x| x != 0.0)
    );
}

#[test]
fn a_soft_cap_bends_scores_after_the_scale() {
    for mut case in cases() {
        for (cap, scale) in [
            (50.0, None),
            (0.5, None),
            (2.0, Some(0.25)),
            (30.0, Some(1.5)),
        ] {
            case.variant = Variant {
                softcap: Some(cap),
                scale,
                ..Variant::default()
            };
            check(&case);
        }
    }
}

#[test]
fn a_scale_takes_the_place_of_the_root() {
    for mut case in cases() {
        for scale in [1.0, 0.3, 1.0 / 144.0_f32.sqrt()] {
            case.variant = Variant {
                scale: Some(scale),
                ..Variant::default()
            };
            check(&case);
        }
    }
}

#[test]
fn the_root_as_a_scale_has_the_same_bits_where_it_is_a_power_of_two() {
    let mut case = Case::new(2, 2, 2, 300, 64);
    let run = |case: &Case| {
        (
            case.run::<f32>(InstructionSet::best(), 2),
            case.run::<bf16>(InstructionSet::best(), 2),
        )
    };
    let default = run(&case);
    case.variant.scale = Some(0.125);
    assert_eq!(run(&case), default);
}

#[test]
fn each_row_sees_the_keys_up_to_its_own_slot() {
    let mut case = Case::new(4, 2, 2, 520, 32);
    for slots in [[519, 0, 13, 300], [12, 511, 512, 6]] {
        case.slots = slots.to_vec();
        for variant in [
            Variant::default(),
            Variant {
                softcap: Some(2.0),
                scale: Some(0.7),
                ..window(100)
            },
        ] {
            case.variant = variant;
            check(&case);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_at_its_slot_whatever_slots_others_have() {
    let mut case = Case::new(3, 1, 4, 700, 64);
    case.slots = vec![600; 3];
    let together = case.run::<f32>(InstructionSet::best(), 2);
    case.slots = vec![20, 600, 699];
    let apart = case.run::<f32>(InstructionSet::best(), 2);
    let row = case.sizes.queries() / 3;
    assert_eq!(apart[row..2 * row], together[row..2 * row]);
    assert_ne!(apart[..row], together[..row]);
}

#[test]
fn bits_do_not_depend_on_threads_padding_or_the_rest_of_the_batch() {
    for instructions in instruction_sets() {
        let case = Case::new(3, 1, 4, 900, 64);
        let together = case.run::<f32>(instructions, 1);
        assert_eq!(case.run::<f32>(instructions, 3), together);
        let per_row = case.sizes.queries() / case.sizes.rows;
        for row in 0..3 {
            // The row alone, without its padding.
            let start = row * 3;
            let cache = 900 - start;
            let of_row =
                |values: &[f32]| values[(row * 900 + start) * 64..(row + 1) * 900 * 64].to_vec();
            let alone = Case {
                sizes: AttentionSizes {
                    rows: 1,
                    cache,
                    ..case.sizes
                },
                queries: case.queries[row * per_row..(row + 1) * per_row].to_vec(),
                keys: of_row(&case.keys),
                values: of_row(&case.values),
                mask: vec![1; cache],
                slots: vec![case.slots[row] - start],
                variant: case.variant,
            };
            assert_eq!(
                alone.run::<f32>(instructions, 2),
                together[row * per_row..(row + 1) * per_row]
            );
        }
    }
}

#[test]
fn slots_that_are_masked_or_not_yet_written_are_not_read() {
    let mut case = Case::new(1, 1, 2, 40, 16);
    case.slots = vec![20];
    for hole in [5, 6, 13] {
        case.mask[hole] = 0;
    }
    let clean = case.run::<f32>(InstructionSet::Portable, 1);
    for slot in [5, 6, 13, 21, 39] {
        case.keys[slot * 16..(slot + 1) * 16].fill(1e30);
    }
    for slot in 21..40 {
        case.values[slot * 16..(slot + 1) * 16].fill(f32::NAN);
    }
    for instructions in instruction_sets() {
        for (found, clean) in case.run::<f32>(instructions, 2).into_iter().zip(&clean) {
            assert!(
                (found - clean).abs() < 1e-6,
                "{instructions}: {found} {clean}"
            );
        }
    }
}

#[test]
fn a_row_that_sees_nothing_gives_zeros() {
    let mut case = Case::new(2, 1, 2, 30, 16);
    case.mask[30..].fill(0);
    for instructions in instruction_sets() {
        let result = case.run::<f32>(instructions, 1);
        assert!(result[..32].iter().any(|&x| x != 0.0));
        assert!(result[32..].iter().all(|&x| x == 0.0), "{instructions}");
    }
}

#[test]
fn sixteen_bits_are_rounded_to_nearest_even() {
    for bits in (0..0x7f80_0000_u32).step_by(7919) {
        let value = f32::from_bits(bits);
        let expected = bf16::from_f32(value).to_f32();
        assert_eq!(bf16::rounded(value), expected, "{value}");
    }
}
