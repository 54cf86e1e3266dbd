//! What is done to stored values so that they are the model's: some programs store a weight scaled
//! or shifted.

use super::cast::cast;
use crate::dtype::DType;

/// A change of every element of a tensor, computed in float32 before any cast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// Adds a number.
    Add(f32),
    /// Multiplies by a number.
    Multiply(f32),
    /// Divides by a number. The quotient is rounded once, which a product with the reciprocal is
    /// not.
    Divide(f32),
}

impl Transform {
    fn apply(self, value: f32) -> f32 {
        match self {
            Transform::Add(number) => value + number,
            Transform::Multiply(number) => value * number,
            Transform::Divide(number) => value / number,
        }
    }
}

/// Elements that are widened at a time.
const BLOCK: usize = 1024;

/// Changes and casts little-endian elements; `output` has as many as `input`.
pub(super) fn convert(
    from: DType,
    input: &[u8],
    transform: Option<Transform>,
    to: DType,
    output: &mut [u8],
) {
    let Some(transform) = transform else {
        return cast(from, input, to, output);
    };
    let mut wide = [0; BLOCK * 4];
    let blocks = input
        .chunks(BLOCK * from.size())
        .zip(output.chunks_mut(BLOCK * to.size()));
    for (input, output) in blocks {
        let (wide, _) = wide.split_at_mut(input.len() / from.size() * 4);
        cast(from, input, DType::F32, wide);
        for element in wide.as_chunks_mut().0 {
            *element = transform.apply(f32::from_le_bytes(*element)).to_le_bytes();
        }
        cast(DType::F32, wide, to, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(values: &[f32], from: DType, transform: Transform, to: DType) -> Vec<f32> {
        let wide: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut stored = vec![0; values.len() * from.size()];
        cast(DType::F32, &wide, from, &mut stored);
        let mut changed = vec![0; values.len() * to.size()];
        convert(from, &stored, Some(transform), to, &mut changed);
        let mut wide = vec![0; values.len() * 4];
        cast(to, &changed, DType::F32, &mut wide);
        let (elements, _) = wide.as_chunks();
        elements.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    #[test]
    fn values_are_changed_in_float32_before_they_are_rounded() {
        // In bfloat16 throughout, 1 + 2^-7 minus 1 would be exact, but the quotient by 3 of 1 would
        // lose bits twice.
        let stored = 1.0 + 2.0_f32.powi(-7);
        let from = DType::BF16;
        let add = converted(&[stored], from, Transform::Add(-1.0), DType::F32);
        assert_eq!(add, [2.0_f32.powi(-7)]);
        let divide = converted(&[1.0], from, Transform::Divide(3.0), DType::F32);
        assert_eq!(divide, [1.0 / 3.0]);
        let multiply = converted(&[1.5], DType::F16, Transform::Multiply(4.0), DType::BF16);
        assert_eq!(multiply, [6.0]);
    }

    #[test]
    fn more_elements_than_one_block_are_all_changed() {
        let values: Vec<f32> = (0..2500).map(|x| x as f32).collect();
        let found = converted(&values, DType::F32, Transform::Add(1.0), DType::F32);
        let expected: Vec<f32> = values.iter().map(|x| x + 1.0).collect();
        assert_eq!(found, expected);
    }
}
