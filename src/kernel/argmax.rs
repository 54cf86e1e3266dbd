//! The maximum of each row.

use half::bf16;
use hlo::ElementType;

use super::pool::{Parts, Pool};
use crate::pjrt::{Attributes, CallResult, CustomCall, Operand};

/// The name that programs call the maximum of each row by.
///
/// Operand: [rows, n], n at least 1, bfloat16 or float32, row-major. Results: the maximum of each
/// row, \[rows\] of that type, and its index, s32 \[rows\]: the first of equal elements, and the
/// first NaN where there is one, as [`hlo::Builder::argmax`] defines it.
///
/// XLA:CPU compares the elements one by one, which takes a noticeable part of a decode step where
/// the vocabulary is large.
pub const ARGMAX: &str = "gemma_xla_argmax";

/// The number of elements from which on all threads search.
pub(super) const SEARCH_TOGETHER: usize = 1 << 16;
/// Elements whose maximum is found before its index is.
const BLOCK: usize = 1 << 10;

/// [`ARGMAX`].
pub(super) struct Argmax;

impl CustomCall for Argmax {
    const TARGET: &'static str = ARGMAX;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> Result<(), String> {
        attributes.only(&[])?;
        let ([x], [value, position]) = (operands, results) else {
            return Err("takes one operand and has two results".to_owned());
        };
        let &[rows, _] = x.dims() else {
            return Err("the operand is not a matrix".to_owned());
        };
        if value.dims() != [rows] || position.dims() != [rows] {
            return Err(format!("{rows} rows need as many values and indices"));
        }
        let positions = position.as_s32_mut();
        let found = match x.element_type() {
            ElementType::BF16 => rows_argmax(x.as_bf16(), value.as_bf16_mut(), positions),
            ElementType::F32 => rows_argmax(x.as_f32(), value.as_f32_mut(), positions),
            _ => None,
        };
        found.ok_or_else(|| format!("{} of {:?} is not supported", x.element_type(), x.dims()))
    }
}

/// A float as an integer that has its order: both zeros are equal, and NaN is above all.
pub(super) trait Ordered: Copy + Send + Sync {
    type Key: Ord + Copy;
    const LOWEST: Self::Key;
    fn key(self) -> Self::Key;
}

macro_rules! ordered {
    ($float:ty, $key:ty, $magnitude:literal, $infinity:literal) => {
        impl Ordered for $float {
            type Key = $key;
            const LOWEST: $key = <$key>::MIN;
            fn key(self) -> $key {
                let bits = self.to_bits() as $key;
                let magnitude = bits & $magnitude;
                if magnitude > $infinity {
                    <$key>::MAX
                } else if bits < 0 {
                    -magnitude
                } else {
                    magnitude
                }
            }
        }
    };
}
ordered!(f32, i32, 0x7fff_ffff, 0x7f80_0000);
ordered!(bf16, i16, 0x7fff, 0x7f80);

/// Writes each row's maximum and its index; none where a type is wrong, or the rows have no
/// elements or too many.
fn rows_argmax<T: Ordered>(
    x: Option<&[T]>,
    values: Option<&mut [T]>,
    positions: Option<&mut [i32]>,
) -> Option<()> {
    let (x, values, positions) = (x?, values?, positions?);
    let rows = positions.len();
    if rows == 0 {
        return Some(());
    }
    let width = x.len() / rows;
    if width == 0 || i32::try_from(width).is_err() {
        return None;
    }
    let (values, positions) = (Parts::new(values, 1), Parts::new(positions, 1));
    let search = |row: usize| {
        let elements = &x[row * width..(row + 1) * width];
        let position = argmax(elements);
        // SAFETY: each row is searched once.
        let (to_value, to_position) = unsafe { (values.part(row), positions.part(row)) };
        to_value[0] = elements[position];
        to_position[0] = position as i32;
    };
    if x.len() >= SEARCH_TOGETHER {
        Pool::global().run(rows, &search);
    } else {
        (0..rows).for_each(search);
    }
    Some(())
}

/// The index of the first maximum.
fn argmax<T: Ordered>(elements: &[T]) -> usize {
    let mut best = T::LOWEST;
    let mut first = 0;
    for (number, block) in elements.chunks(BLOCK).enumerate() {
        // Without the index, this is vectorized.
        let maximum = block.iter().fold(T::LOWEST, |best, x| best.max(x.key()));
        if maximum > best {
            best = maximum;
            first = number * BLOCK;
        }
    }
    let within = elements[first..].iter().position(|x| x.key() == best);
    first + within.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(elements: &[f32]) -> usize {
        let narrow: Vec<bf16> = elements.iter().map(|&x| bf16::from_f32(x)).collect();
        let position = argmax(elements);
        assert_eq!(argmax(&narrow), position, "{elements:?}");
        position
    }

    #[test]
    fn the_first_maximum_is_found() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (elements, position) in [
            (&[3.0][..], 0),
            (&[1.0, 2.0, 2.0, -5.0], 1),
            (&[-1.0, -3.0, -0.5], 2),
            (&[-0.0, 0.0], 0),
            (&[0.0, -0.0], 0),
            (&[-inf, -inf], 0),
            (&[-inf, -1e38], 1),
            (&[1.0, inf, 2.0], 1),
            (&[1.0, nan, inf, -nan], 1),
            (&[-nan, nan], 0),
        ] {
            assert_eq!(of(elements), position, "{elements:?}");
        }
    }

    #[test]
    fn it_is_found_in_any_block() {
        for place in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7, 3 * BLOCK - 1] {
            let mut elements: Vec<f32> = (0..3 * BLOCK).map(|i| (i % 50) as f32).collect();
            elements[place] = 64.0;
            assert_eq!(of(&elements), place);
            elements[3 * BLOCK - 1] = 64.0;
            assert_eq!(of(&elements), place, "the first of two");
        }
    }

    #[test]
    fn many_rows_are_searched_by_all_threads() {
        let (rows, width) = (33, 4001);
        let x: Vec<f32> = (0..rows * width)
            .map(|i| (i * 7919 % width) as f32)
            .collect();
        let (mut values, mut positions) = (vec![0.0; rows], vec![-1; rows]);
        assert!(rows * width >= SEARCH_TOGETHER);
        rows_argmax(Some(&x), Some(&mut values), Some(&mut positions)).expect("rows");
        for (row, &position) in positions.iter().enumerate() {
            let found = x[row * width + position as usize];
            assert_eq!((found, values[row]), ((width - 1) as f32, found));
        }
    }

    #[test]
    fn rows_without_elements_are_refused() {
        let mut positions = [0];
        assert_eq!(
            rows_argmax::<f32>(Some(&[]), Some(&mut [0.0]), Some(&mut positions)),
            None
        );
        assert_eq!(
            rows_argmax::<f32>(Some(&[]), Some(&mut []), Some(&mut [])),
            Some(())
        );
    }
}
