//! Reads a checkpoint's tensor into the form that a device holds it in: cast, and transposed where the
//! device wants kernels the other way round. All cores read at once, each its own part of the result,
//! so the host holds nothing beyond the result but one small block a core.

use rayon::prelude::*;

use crate::checkpoint::{self, Tensor};
use crate::dtype::DType;

/// Elements that one task reads at a time when it only casts.
const FLAT_BLOCK: usize = 1 << 18;
/// Columns of the stored matrix, so rows of the transposed one, that one task makes.
const STRIP_COLUMNS: usize = 2048;
/// Rows of the stored matrix that a task reads before it writes: 64 two-byte elements are two cache lines.
const STRIP_ROWS: usize = 64;

/// Reads `tensor` into `out`, cast to `to`, in the stored order.
///
/// `out` has the tensor's element count times `to.size()` bytes.
///
/// # Errors
/// A file that cannot be read, or has become shorter.
pub fn read_flat(tensor: &Tensor, to: DType, out: &mut [u8]) -> Result<(), checkpoint::Error> {
    let from = tensor.dtype();
    out.par_chunks_mut(FLAT_BLOCK * to.size())
        .enumerate()
        .try_for_each_init(Vec::new, |raw: &mut Vec<u8>, (index, out)| {
            let offset = index * FLAT_BLOCK * from.size();
            if from == to {
                return tensor.read_at(offset, out);
            }
            raw.resize(out.len() / to.size() * from.size(), 0);
            tensor.read_at(offset, raw)?;
            cast(from, raw, to, out);
            Ok(())
        })
}

/// Reads `tensor` [rows, columns] into `out` as [columns, rows], cast to `to`.
///
/// # Errors
/// A file that cannot be read, or has become shorter.
pub fn read_transposed(
    tensor: &Tensor,
    [rows, columns]: [usize; 2],
    to: DType,
    out: &mut [u8],
) -> Result<(), checkpoint::Error> {
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    match to.size() {
        2 => transpose_strips::<2>(tensor, rows, columns, to, out),
        _ => transpose_strips::<4>(tensor, rows, columns, to, out),
    }
}

fn transpose_strips<const SIZE: usize>(
    tensor: &Tensor,
    rows: usize,
    columns: usize,
    to: DType,
    out: &mut [u8],
) -> Result<(), checkpoint::Error> {
    let from = tensor.dtype();
    out.par_chunks_mut(STRIP_COLUMNS * rows * SIZE)
        .enumerate()
        .try_for_each(|(strip, out)| {
            let first_column = strip * STRIP_COLUMNS;
            let width = out.len() / (rows * SIZE);
            // A stride beside the power of two keeps the rows of a block out of each other's cache sets.
            let stride = (width + 64 / SIZE) * SIZE;
            let mut raw = vec![0; width * from.size()];
            let mut block = vec![0; stride * STRIP_ROWS];
            for first_row in (0..rows).step_by(STRIP_ROWS) {
                let height = STRIP_ROWS.min(rows - first_row);
                for row in 0..height {
                    let offset = ((first_row + row) * columns + first_column) * from.size();
                    let line = &mut block[row * stride..][..width * SIZE];
                    if from == to {
                        tensor.read_at(offset, line)?;
                    } else {
                        tensor.read_at(offset, &mut raw)?;
                        cast(from, &raw, to, line);
                    }
                }
                for (column, out) in out.chunks_exact_mut(rows * SIZE).enumerate() {
                    let out = &mut out[first_row * SIZE..][..height * SIZE];
                    for (row, element) in out.as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
                        let at = row * stride + column * SIZE;
                        element.copy_from_slice(&block[at..at + SIZE]);
                    }
                }
            }
            Ok(())
        })
}

/// Casts little-endian elements, rounding to nearest even as XLA's convert does.
fn cast(from: DType, input: &[u8], to: DType, output: &mut [u8]) {
    use half::{bf16, f16};
    match (from, to) {
        (DType::F32, DType::F32) | (DType::F16, DType::F16) | (DType::BF16, DType::BF16) => {
            output.copy_from_slice(input);
        }
        (DType::F32, DType::BF16) => each(input, output, |x| {
            bf16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
        }),
        (DType::F32, DType::F16) => each(input, output, |x| {
            f16::from_f32(f32::from_le_bytes(x)).to_le_bytes()
        }),
        (DType::BF16, DType::F32) => each(input, output, |x| {
            bf16::from_le_bytes(x).to_f32().to_le_bytes()
        }),
        (DType::F16, DType::F32) => each(input, output, |x| {
            f16::from_le_bytes(x).to_f32().to_le_bytes()
        }),
        (DType::BF16, DType::F16) => each(input, output, |x| {
            f16::from_f32(bf16::from_le_bytes(x).to_f32()).to_le_bytes()
        }),
        (DType::F16, DType::BF16) => each(input, output, |x| {
            bf16::from_f32(f16::from_le_bytes(x).to_f32()).to_le_bytes()
        }),
    }
}

fn each<const FROM: usize, const TO: usize>(
    input: &[u8],
    output: &mut [u8],
    convert: impl Fn([u8; FROM]) -> [u8; TO],
) {
    let (input, _) = input.as_chunks::<FROM>();
    let (output, _) = output.as_chunks_mut::<TO>();
    for (x, y) in input.iter().zip(output) {
        *y = convert(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_round_to_nearest_even() {
        let tie_down = 1.0_f32 + 2.0_f32.powi(-8);
        let tie_up = 1.0_f32 + 3.0 * 2.0_f32.powi(-8);
        let input: Vec<u8> = [tie_down, tie_up, f32::NAN, 1e-40]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let mut output = [0; 8];
        cast(DType::F32, &input, DType::BF16, &mut output);
        let values: Vec<f32> = output
            .as_chunks::<2>()
            .0
            .iter()
            .map(|x| half::bf16::from_le_bytes(*x).to_f32())
            .collect();
        assert_eq!(values[0], 1.0);
        assert_eq!(values[1], 1.015625);
        assert!(values[2].is_nan());
        assert!(values[3] > 0.0, "subnormals are kept");
    }

    #[test]
    fn every_pair_of_dtypes_keeps_values_that_both_hold() {
        let values = [0.0_f32, -1.5, 0.25, 96.0];
        let encode = |dtype: DType| -> Vec<u8> {
            let mut out = vec![0; values.len() * dtype.size()];
            let wide: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            cast(DType::F32, &wide, dtype, &mut out);
            out
        };
        let all = [DType::F32, DType::F16, DType::BF16];
        for from in all {
            for to in all {
                let mut out = vec![0; values.len() * to.size()];
                cast(from, &encode(from), to, &mut out);
                assert_eq!(out, encode(to), "{from} to {to}");
            }
        }
    }
}
