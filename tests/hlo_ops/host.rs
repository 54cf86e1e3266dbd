//! Arrays on the host: made from numbers, and compared.

use half::{bf16, f16};
use hlo::{ElementType, Literal};

/// An array of any element type, from numbers that it can hold (floats are rounded).
pub fn array(element_type: ElementType, numbers: &[f64], dims: &[i64]) -> Literal {
    let bytes = numbers
        .iter()
        .flat_map(|&number| {
            let scalar = Literal::scalar_of(element_type, number).expect("the type holds it");
            scalar.bytes().to_vec()
        })
        .collect();
    Literal::from_bytes(element_type, dims, bytes).expect("as many numbers as elements")
}

/// An array of any integer type, from the lower bits of integers.
pub fn integers(element_type: ElementType, numbers: &[i128], dims: &[i64]) -> Literal {
    let bytes = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes().into_iter().take(element_type.size()))
        .collect();
    Literal::from_bytes(element_type, dims, bytes).expect("as many numbers as elements")
}

/// The integer that an integer type's arithmetic makes of `number`.
pub fn wrap(element_type: ElementType, number: i128) -> i128 {
    let unused = 128 - 8 * u32::try_from(element_type.size()).expect("at most 8 bytes");
    if element_type.is_signed_integer() {
        (number << unused) >> unused
    } else {
        ((number.cast_unsigned() << unused) >> unused).cast_signed()
    }
}

/// An F32 array.
pub fn f32s(numbers: &[f32], dims: &[i64]) -> Literal {
    Literal::from_f32(numbers, dims).expect("as many numbers as elements")
}

/// An S32 array.
pub fn s32s(numbers: &[i32], dims: &[i64]) -> Literal {
    Literal::from_i32(numbers, dims).expect("as many numbers as elements")
}

/// A U32 array.
pub fn u32s(numbers: &[u32], dims: &[i64]) -> Literal {
    Literal::from_u32(numbers, dims).expect("as many numbers as elements")
}

/// A PRED array.
pub fn preds(values: &[bool], dims: &[i64]) -> Literal {
    Literal::from_bool(values, dims).expect("as many values as elements")
}

/// How `got` differs from `expected`, where it does: in shape, in any bit of integers, or by more
/// than the element type's tolerance in floats.
pub fn difference(got: &Literal, expected: &Literal) -> Option<String> {
    if got.shape() != expected.shape() {
        return Some(format!("{} and not {}", got.shape(), expected.shape()));
    }
    if !got.element_type().is_float() {
        let same = got.bytes() == expected.bytes();
        return (!same).then(|| format!("bytes {:?} and not {:?}", got.bytes(), expected.bytes()));
    }
    let tolerance = tolerance(got.element_type());
    let (got, expected) = (floats(got), floats(expected));
    let near = |(&a, &b): (&f64, &f64)| {
        // Infinities are equal, and not near to anything else.
        a == b
            || (a.is_nan() && b.is_nan())
            || (a - b).abs() <= tolerance * b.abs().clamp(1.0, f64::MAX)
    };
    let same = got.iter().zip(&expected).all(near);
    (!same).then(|| format!("{got:?} and not {expected:?}"))
}

/// What results may be off by, relative to the expected value or to 1 if that is more: a few units
/// of the last place.
fn tolerance(element_type: ElementType) -> f64 {
    match element_type {
        ElementType::BF16 => 1e-2,
        ElementType::F16 => 2e-3,
        ElementType::F32 => 2e-6,
        _ => 1e-12,
    }
}

fn floats(literal: &Literal) -> Vec<f64> {
    match literal.element_type() {
        ElementType::F16 => words(literal, |word| f16::from_le_bytes(word).to_f64()),
        ElementType::BF16 => words(literal, |word| bf16::from_le_bytes(word).to_f64()),
        ElementType::F32 => words(literal, |word| f64::from(f32::from_le_bytes(word))),
        ElementType::F64 => words(literal, f64::from_le_bytes),
        other => panic!("{other} is no float"),
    }
}

fn words<const N: usize>(literal: &Literal, read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let (words, rest) = literal.bytes().as_chunks::<N>();
    assert!(rest.is_empty(), "whole elements");
    words.iter().map(|&word| read(word)).collect()
}

#[test]
fn a_wrong_result_is_told_from_a_right_one() {
    let one = f32s(&[1.0], &[1]);
    assert_eq!(difference(&one, &f32s(&[1.000_001], &[1])), None);
    assert_eq!(
        difference(&f32s(&[f32::NAN], &[1]), &f32s(&[f32::NAN], &[1])),
        None
    );
    for wrong in [
        f32s(&[1.000_01], &[1]),
        f32s(&[f32::NAN], &[1]),
        f32s(&[f32::INFINITY], &[1]),
        f32s(&[1.0], &[1, 1]),
        s32s(&[1], &[1]),
    ] {
        assert_ne!(difference(&one, &wrong), None, "{wrong:?}");
        assert_ne!(difference(&wrong, &one), None, "{wrong:?}");
    }
    assert_ne!(difference(&s32s(&[7], &[]), &s32s(&[8], &[])), None);
}
