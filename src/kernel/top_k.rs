//! The greatest elements of each row.

use std::cmp::Reverse;

use hlo::ElementType;

use super::argmax::{Ordered, SEARCH_TOGETHER};
use super::pool::{Parts, Pool};
use crate::pjrt::{Attributes, CallResult, CustomCall, Operand};

/// The name that programs call the greatest elements of each row by.
///
/// Operand: [rows, n], bfloat16 or float32, row-major. Results: the k greatest of each row, [rows,
/// k] of that type with k from 1 to n, and their indices, s32 [rows, k]: the greatest first, of
/// equal elements the one with the lowest index, and NaN before numbers.
///
/// XLA:CPU would sort whole rows, which takes as long as a decode step.
pub const TOP_K: &str = "gemma_xla_top_k";

/// Elements that are looked at one by one only where their maximum is among the greatest so far.
const BLOCK: usize = 256;

/// [`TOP_K`].
pub(super) struct TopK;

impl CustomCall for TopK {
    const TARGET: &'static str = TOP_K;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> Result<(), String> {
        attributes.only(&[])?;
        let ([x], [values, indices]) = (operands, results) else {
            return Err("takes one operand and has two results".to_owned());
        };
        let (&[rows, n], &[r_rows, k]) = (x.dims(), values.dims()) else {
            return Err("the operand or the result is not a matrix".to_owned());
        };
        if rows != r_rows || indices.dims() != [rows, k] || !(1..=n).contains(&k) {
            return Err(format!(
                "{rows} rows of {n} elements do not give {r_rows} rows of {k}"
            ));
        }
        let (rows, indices) = (rows as usize, indices.as_s32_mut());
        let found = match x.element_type() {
            ElementType::BF16 => rows_top(rows, x.as_bf16(), values.as_bf16_mut(), indices),
            ElementType::F32 => rows_top(rows, x.as_f32(), values.as_f32_mut(), indices),
            _ => None,
        };
        found.ok_or_else(|| format!("{} of {:?} is not supported", x.element_type(), x.dims()))
    }
}

/// Writes each row's greatest elements and their indices; none where a type is wrong or the sizes
/// do not fit.
fn rows_top<T: Ordered>(
    rows: usize,
    x: Option<&[T]>,
    values: Option<&mut [T]>,
    indices: Option<&mut [i32]>,
) -> Option<()> {
    let (x, values, indices) = (x?, values?, indices?);
    if rows == 0 {
        return Some(());
    }
    let (n, k) = (x.len() / rows, indices.len() / rows);
    if n == 0 || k == 0 || k > n || values.len() != indices.len() || i32::try_from(n).is_err() {
        return None;
    }
    let (values, indices) = (Parts::new(values, k), Parts::new(indices, k));
    let search = |row: usize| {
        let elements = &x[row * n..(row + 1) * n];
        // SAFETY: each row is searched once.
        let (to_values, to_indices) = unsafe { (values.part(row), indices.part(row)) };
        let places = to_values.iter_mut().zip(to_indices);
        for ((value, index), (_, found)) in places.zip(top(elements, k)) {
            *value = elements[found];
            *index = found as i32;
        }
    };
    if x.len() >= SEARCH_TOGETHER {
        Pool::global().run(rows, &search);
    } else {
        (0..rows).for_each(search);
    }
    Some(())
}

/// The `k` greatest elements by key and index, the greatest first.
fn top<T: Ordered>(elements: &[T], k: usize) -> Vec<(T::Key, usize)> {
    let order = |&(key, index): &(T::Key, usize)| (Reverse(key), index);
    let room = 2 * k + BLOCK;
    let mut best: Vec<(T::Key, usize)> = Vec::with_capacity(room + BLOCK);
    // The least of the `k` greatest so far: an equal element that comes later is not among them.
    let mut least = None;
    for (number, block) in elements.chunks(BLOCK).enumerate() {
        // Without the index, this is vectorized.
        let maximum = block.iter().fold(T::LOWEST, |best, x| best.max(x.key()));
        if least.is_some_and(|least| maximum <= least) {
            continue;
        }
        let numbered = block.iter().enumerate();
        let keyed = numbered.map(|(index, x)| (x.key(), number * BLOCK + index));
        best.extend(keyed.filter(|&(key, _)| least.is_none_or(|least| key > least)));
        if best.len() > room || (least.is_none() && best.len() >= k) {
            best.select_nth_unstable_by_key(k - 1, order);
            best.truncate(k);
            least = Some(best[k - 1].0);
        }
    }
    best.sort_unstable_by_key(order);
    best.truncate(k);
    best
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    /// The same by a stable sort of everything.
    fn sorted<T: Ordered>(elements: &[T], k: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..elements.len()).collect();
        places.sort_by_key(|&index| Reverse(elements[index].key()));
        places.truncate(k);
        places
    }

    fn check(elements: &[f32], k: usize) {
        let narrow: Vec<bf16> = elements.iter().map(|&x| bf16::from_f32(x)).collect();
        let found = |places: Vec<(_, usize)>| places.into_iter().map(|(_, at)| at).collect();
        let found: Vec<usize> = found(top(elements, k));
        assert_eq!(found, sorted(elements, k));
        let found: Vec<usize> = top(&narrow, k).into_iter().map(|(_, at)| at).collect();
        assert_eq!(found, sorted(&narrow, k));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_the_beginning_of_a_stable_sort(
            elements in prop::collection::vec(-20_i8..20, 1..3000),
            k in 1_usize..400,
        ) {
            // Few values, so that many are equal.
            let elements: Vec<f32> = elements.into_iter().map(|x| f32::from(x) / 4.0).collect();
            check(&elements, k.min(elements.len()));
        }
    }

    #[test]
    fn rising_falling_and_unusual_rows() {
        let rising: Vec<f32> = (0..5000).map(|x| x as f32).collect();
        let falling: Vec<f32> = rising.iter().rev().copied().collect();
        for k in [1, 50, 64, 5000] {
            check(&rising, k);
            check(&falling, k);
        }
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        check(&[-inf, nan, 0.0, -0.0, inf, -nan, -inf], 7);
        check(&[-inf; 700], 650);
    }

    #[test]
    fn many_rows_are_searched_by_all_threads() {
        let (rows, n, k) = (9, 9000, 3);
        let x: Vec<f32> = (0..rows * n).map(|i| (i * 7919 % n) as f32).collect();
        let (mut values, mut indices) = (vec![0.0; rows * k], vec![-1; rows * k]);
        assert!(x.len() >= SEARCH_TOGETHER);
        rows_top(rows, Some(&x), Some(&mut values), Some(&mut indices)).expect("rows");
        for row in 0..rows {
            let expected = [n - 1, n - 2, n - 3].map(|value| value as f32);
            assert_eq!(values[row * k..(row + 1) * k], expected);
            let at = indices[row * k] as usize;
            assert_eq!(x[row * n + at], expected[0]);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let mut few = ([0.0], [0]);
        let wrong = rows_top::<f32>(1, Some(&[]), Some(&mut few.0), Some(&mut few.1));
        assert_eq!(wrong, None);
        let none = rows_top::<f32>(0, Some(&[]), Some(&mut []), Some(&mut []));
        assert_eq!(none, Some(()));
    }
}
