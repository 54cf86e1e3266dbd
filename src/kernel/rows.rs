//! Rows of a table.

use super::pool::{Parts, Pool};
use crate::pjrt::{Attributes, CallResult, CustomCall, Operand};

/// The name that programs call the selection of rows by.
///
/// Operands: a table [rows, width] of any type and indices s32 \[n\]. Result: [n, width] of the
/// table's type. An index outside of the table selects the nearest row, as XLA's gather does. All
/// row-major.
///
/// XLA:CPU has no gather of 16-bit floats: it writes the whole table as float32 first.
pub const TAKE_ROWS: &str = "gemma_xla_take_rows";

/// The number of bytes from which on all threads copy.
const COPY_TOGETHER: usize = 1 << 20;

/// [`TAKE_ROWS`].
pub(super) struct TakeRows;

impl CustomCall for TakeRows {
    const TARGET: &'static str = TAKE_ROWS;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> Result<(), String> {
        attributes.only(&[])?;
        let ([table, indices], [result]) = (operands, results) else {
            return Err("takes two operands and has one result".to_owned());
        };
        let (&[rows, width], &[count], &[r_count, r_width]) =
            (table.dims(), indices.dims(), result.dims())
        else {
            return Err(
                "the operands are not a matrix and a vector, or the result is not a matrix"
                    .to_owned(),
            );
        };
        let fits =
            [count, width] == [r_count, r_width] && table.element_type() == result.element_type();
        if !fits {
            return Err(format!(
                "{count} rows of {rows} by {width} are not {r_count} by {r_width}"
            ));
        }
        let indices = indices.as_s32().ok_or("the indices are not s32")?;
        take_rows(table.bytes(), rows, indices, result.bytes_mut())
    }
}

/// Copies rows of a table of `rows` rows to `result`, one per index.
fn take_rows(table: &[u8], rows: i64, indices: &[i32], result: &mut [u8]) -> Result<(), String> {
    if result.is_empty() {
        return Ok(());
    }
    let size = usize::try_from(rows).map_err(|error| error.to_string())?;
    let width = table.len().checked_div(size).ok_or("the table is empty")?;
    let together = result.len() >= COPY_TOGETHER;
    let parts = Parts::new(result, width);
    let copy = |index: usize| {
        let row = usize::try_from(indices[index]).unwrap_or(0).min(size - 1);
        // SAFETY: each index is processed once.
        let to = unsafe { parts.part(index) };
        to.copy_from_slice(&table[row * width..(row + 1) * width]);
    };
    if together {
        Pool::global().run(indices.len(), &copy);
    } else {
        (0..indices.len()).for_each(copy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_copied_and_indices_outside_take_the_nearest() {
        let table = [1, 2, 3, 4, 5, 6];
        let mut result = [0; 10];
        take_rows(&table, 3, &[2, 0, -5, 3, i32::MAX], &mut result).expect("rows");
        assert_eq!(result, [5, 6, 1, 2, 1, 2, 5, 6, 5, 6]);
    }

    #[test]
    fn many_rows_are_copied_by_all_threads() {
        let width = 4096;
        let table: Vec<u8> = (0..300 * width).map(|i| (i / width % 251) as u8).collect();
        let indices: Vec<i32> = (0..1000).map(|i| i * 7 % 300).collect();
        let mut result = vec![0; indices.len() * width];
        take_rows(&table, 300, &indices, &mut result).expect("rows");
        for (&index, row) in indices.iter().zip(result.chunks(width)) {
            assert!(row.iter().all(|&byte| i32::from(byte) == index % 251));
        }
    }

    #[test]
    fn an_empty_table_is_refused_and_no_index_takes_nothing() {
        assert!(take_rows(&[], 0, &[1], &mut [0; 4]).is_err());
        assert_eq!(take_rows(&[], 0, &[], &mut []), Ok(()));
    }
}
