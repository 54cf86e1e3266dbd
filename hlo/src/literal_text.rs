//! Literals as HLO text writes them: `3`, `{1, 2}`, `{ {1, 2}, {3, 4} }`.

use std::fmt::{self, Write};

use half::{bf16, f16};

use crate::literal::words;
use crate::{ElementType, Literal};

/// Appends the literal's elements, nested in braces as its dimensions are.
pub(crate) fn write_literal(out: &mut impl Write, literal: &Literal) -> fmt::Result {
    let elements = elements(literal);
    let mut rest = elements.iter();
    write_dims(out, &literal.shape().dims, &mut rest)
}

fn write_dims<'a>(
    out: &mut impl Write,
    dims: &[i64],
    elements: &mut impl Iterator<Item = &'a String>,
) -> fmt::Result {
    let Some((&size, inner)) = dims.split_first() else {
        return out.write_str(elements.next().map_or("", String::as_str));
    };
    let space = if inner.is_empty() || size == 0 {
        ""
    } else {
        " "
    };
    write!(out, "{{{space}")?;
    for i in 0..size {
        if i > 0 {
            out.write_str(", ")?;
        }
        write_dims(out, inner, elements)?;
    }
    write!(out, "{space}}}")
}

fn elements(literal: &Literal) -> Vec<String> {
    let bytes = literal.bytes();
    macro_rules! integers {
        ($rust:ty) => {
            words(bytes)
                .map(|word| <$rust>::from_le_bytes(word).to_string())
                .collect()
        };
    }
    match literal.element_type() {
        ElementType::Pred => bytes.iter().map(|&byte| (byte != 0).to_string()).collect(),
        ElementType::S8 => integers!(i8),
        ElementType::S16 => integers!(i16),
        ElementType::S32 => integers!(i32),
        ElementType::S64 => integers!(i64),
        ElementType::U8 => integers!(u8),
        ElementType::U16 => integers!(u16),
        ElementType::U32 => integers!(u32),
        ElementType::U64 => integers!(u64),
        // Half types are exact in f32, and its shortest decimal form reads back as the same number.
        ElementType::F16 => words(bytes)
            .map(|word| float(f32::from(f16::from_le_bytes(word))))
            .collect(),
        ElementType::BF16 => words(bytes)
            .map(|word| float(f32::from(bf16::from_le_bytes(word))))
            .collect(),
        ElementType::F32 => words(bytes)
            .map(|word| float(f32::from_le_bytes(word)))
            .collect(),
        ElementType::F64 => words(bytes)
            .map(|word| float(f64::from_le_bytes(word)))
            .collect(),
    }
}

/// The shortest decimal that reads back as the same float; `nan`, `inf` and `-inf` as XLA spells
/// them.
fn float(value: impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.strip_suffix(".0") {
        // Read as an integer, it would lose its sign.
        Some("-0") => text,
        Some(whole) => whole.to_owned(),
        None if text.ends_with("NaN") => "nan".to_owned(),
        None => text,
    }
}
