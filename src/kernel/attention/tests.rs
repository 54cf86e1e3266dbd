//! Attention against the formula in float64.

use super::*;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 504.0 - 1.0)
        .collect()
}

struct Case {
    sizes: Sizes,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mask: Vec<i32>,
    slot: usize,
}

impl Case {
    fn new(rows: usize, kv_heads: usize, group: usize, cache: usize, head_dim: usize) -> Self {
        let sizes = Sizes {
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
            slot: cache - 2,
        }
    }

    fn run<T: Stored>(&self, form: Form, threads: usize) -> Vec<f32> {
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
            slot: self.slot,
        };
        let mut result = stored(&vec![7.0; self.sizes.queries()]);
        attend(&Pool::new(threads), form, self.sizes, &input, &mut result);
        result.into_iter().map(T::widen).collect()
    }

    /// The formula in float64, on numbers as `T` stores them.
    fn expected<T: Stored>(&self) -> Vec<f64> {
        let Sizes {
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
            let visible: Vec<usize> = (0..=self.slot).filter(|&slot| mask[slot] > 0).collect();
            let scores: Vec<f64> = visible
                .iter()
                .map(|&slot| {
                    let products = row(&self.keys, slot);
                    let products = products.iter().zip(query).map(|(k, &q)| k * stored(q));
                    products.sum::<f64>() / (head_dim as f64).sqrt()
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

fn forms() -> impl Iterator<Item = Form> {
    Form::ALL.into_iter().filter(|form| form.is_available())
}

#[test]
fn every_form_computes_the_formula() {
    for case in cases() {
        for form in forms() {
            let check = |found: Vec<f32>, expected: Vec<f64>, tolerance: f64| {
                for (found, expected) in found.into_iter().zip(expected) {
                    let off = (f64::from(found) - expected).abs();
                    assert!(
                        off < tolerance,
                        "{form}, {:?}: {found} {expected}",
                        case.sizes
                    );
                }
            };
            check(case.run::<f32>(form, 2), case.expected::<f32>(), 3e-6);
            // A step of bfloat16 at 1 is 2⁻⁷; a weight near a tie may be rounded the other way.
            check(case.run::<bf16>(form, 2), case.expected::<bf16>(), 6e-3);
        }
    }
}

#[test]
fn bits_do_not_hang_on_threads_padding_or_the_rest_of_the_batch() {
    for form in forms() {
        let case = Case::new(3, 1, 4, 900, 64);
        let together = case.run::<f32>(form, 1);
        assert_eq!(case.run::<f32>(form, 3), together);
        let per_row = case.sizes.queries() / case.sizes.rows;
        for row in 0..3 {
            // The row alone, without its padding.
            let start = row * 3;
            let cache = 900 - start;
            let of_row =
                |values: &[f32]| values[(row * 900 + start) * 64..(row + 1) * 900 * 64].to_vec();
            let alone = Case {
                sizes: Sizes {
                    rows: 1,
                    cache,
                    ..case.sizes
                },
                queries: case.queries[row * per_row..(row + 1) * per_row].to_vec(),
                keys: of_row(&case.keys),
                values: of_row(&case.values),
                mask: vec![1; cache],
                slot: case.slot - start,
            };
            assert_eq!(
                alone.run::<f32>(form, 2),
                together[row * per_row..(row + 1) * per_row]
            );
        }
    }
}

#[test]
fn slots_that_are_masked_or_not_yet_written_are_not_looked_at() {
    let mut case = Case::new(1, 1, 2, 40, 16);
    case.slot = 20;
    for hole in [5, 6, 13] {
        case.mask[hole] = 0;
    }
    let clean = case.run::<f32>(Form::Portable, 1);
    for slot in [5, 6, 13, 21, 39] {
        case.keys[slot * 16..(slot + 1) * 16].fill(1e30);
    }
    for slot in 21..40 {
        case.values[slot * 16..(slot + 1) * 16].fill(f32::NAN);
    }
    for form in forms() {
        for (found, clean) in case.run::<f32>(form, 2).into_iter().zip(&clean) {
            assert!((found - clean).abs() < 1e-6, "{form}: {found} {clean}");
        }
    }
}

#[test]
fn a_row_that_sees_nothing_gives_zeros() {
    let mut case = Case::new(2, 1, 2, 30, 16);
    case.mask[30..].fill(0);
    for form in forms() {
        let result = case.run::<f32>(form, 1);
        assert!(result[..32].iter().any(|&x| x != 0.0));
        assert!(result[32..].iter().all(|&x| x == 0.0), "{form}");
    }
}
