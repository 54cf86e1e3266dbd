//! Casts between the dtypes that parameters have.

use crate::dtype::DType;

/// Casts little-endian elements, rounding to nearest even as XLA's convert does.
pub(super) fn cast(from: DType, input: &[u8], to: DType, output: &mut [u8]) {
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

/// How many of these little-endian elements are infinite.
pub(super) fn infinities(dtype: DType, bytes: &[u8]) -> u64 {
    // All bits of the exponent are set, and none of the mantissa.
    let narrow = |infinite: u16| {
        let (elements, _) = bytes.as_chunks();
        let is_infinite = |x: &&[u8; 2]| u16::from_le_bytes(**x) & 0x7fff == infinite;
        elements.iter().filter(is_infinite).count() as u64
    };
    match dtype {
        DType::F32 => {
            let (elements, _) = bytes.as_chunks();
            let is_infinite = |x: &&[u8; 4]| f32::from_le_bytes(**x).is_infinite();
            elements.iter().filter(is_infinite).count() as u64
        }
        DType::F16 => narrow(0x7c00),
        DType::BF16 => narrow(0x7f80),
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
