//! Element types, and the Rust types that hold one element of them.

use std::fmt;

use half::{bf16, f16};
use pjrt_sys::protos::xla::PrimitiveType;

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ElementType {
    /// Booleans, a byte each.
    Pred,
    /// Signed 8-bit integers.
    S8,
    /// Signed 16-bit integers.
    S16,
    /// Signed 32-bit integers.
    S32,
    /// Signed 64-bit integers.
    S64,
    /// Unsigned 8-bit integers.
    U8,
    /// Unsigned 16-bit integers.
    U16,
    /// Unsigned 32-bit integers.
    U32,
    /// Unsigned 64-bit integers.
    U64,
    /// IEEE half precision.
    F16,
    /// The upper half of a [`ElementType::F32`].
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl ElementType {
    /// Every element type.
    pub const ALL: [ElementType; 13] = [
        Self::Pred,
        Self::S8,
        Self::S16,
        Self::S32,
        Self::S64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Pred | Self::S8 | Self::U8 => 1,
            Self::S16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::S32 | Self::U32 | Self::F32 => 4,
            Self::S64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The name in HLO text: `pred`, `s32`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::S8 => "s8",
            Self::S16 => "s16",
            Self::S32 => "s32",
            Self::S64 => "s64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Whether this is a floating point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// Whether this is an integer type, signed or unsigned. [`ElementType::Pred`] is none.
    pub const fn is_integer(self) -> bool {
        self.is_signed_integer() || self.is_unsigned_integer()
    }

    /// Whether this is a signed integer type.
    pub const fn is_signed_integer(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Whether this is an unsigned integer type.
    pub const fn is_unsigned_integer(self) -> bool {
        matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    /// The type's number in `xla_data.proto`.
    pub const fn to_proto(self) -> PrimitiveType {
        match self {
            Self::Pred => PrimitiveType::Pred,
            Self::S8 => PrimitiveType::S8,
            Self::S16 => PrimitiveType::S16,
            Self::S32 => PrimitiveType::S32,
            Self::S64 => PrimitiveType::S64,
            Self::U8 => PrimitiveType::U8,
            Self::U16 => PrimitiveType::U16,
            Self::U32 => PrimitiveType::U32,
            Self::U64 => PrimitiveType::U64,
            Self::F16 => PrimitiveType::F16,
            Self::BF16 => PrimitiveType::Bf16,
            Self::F32 => PrimitiveType::F32,
            Self::F64 => PrimitiveType::F64,
        }
    }

    /// The identity of `maximum`, as little-endian bytes: minus infinity, or the least integer.
    pub(crate) fn lowest_bytes(self) -> Vec<u8> {
        match self {
            Self::Pred => vec![0],
            Self::S8 => i8::MIN.to_le_bytes().to_vec(),
            Self::S16 => i16::MIN.to_le_bytes().to_vec(),
            Self::S32 => i32::MIN.to_le_bytes().to_vec(),
            Self::S64 => i64::MIN.to_le_bytes().to_vec(),
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => vec![0; self.size()],
            Self::F16 => f16::NEG_INFINITY.to_le_bytes().to_vec(),
            Self::BF16 => bf16::NEG_INFINITY.to_le_bytes().to_vec(),
            Self::F32 => f32::NEG_INFINITY.to_le_bytes().to_vec(),
            Self::F64 => f64::NEG_INFINITY.to_le_bytes().to_vec(),
        }
    }

    /// The identity of `minimum`, as little-endian bytes: infinity, or the greatest integer.
    pub(crate) fn highest_bytes(self) -> Vec<u8> {
        match self {
            Self::Pred => vec![1],
            Self::S8 => i8::MAX.to_le_bytes().to_vec(),
            Self::S16 => i16::MAX.to_le_bytes().to_vec(),
            Self::S32 => i32::MAX.to_le_bytes().to_vec(),
            Self::S64 => i64::MAX.to_le_bytes().to_vec(),
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => vec![0xff; self.size()],
            Self::F16 => f16::INFINITY.to_le_bytes().to_vec(),
            Self::BF16 => bf16::INFINITY.to_le_bytes().to_vec(),
            Self::F32 => f32::INFINITY.to_le_bytes().to_vec(),
            Self::F64 => f64::INFINITY.to_le_bytes().to_vec(),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that holds one element of an [`ElementType`].
pub trait Element: Copy + sealed::Sealed {
    /// The element type that this Rust type holds.
    const TYPE: ElementType;

    /// Appends the element's little-endian bytes.
    fn write_le(self, bytes: &mut Vec<u8>);
}

macro_rules! element {
    ($($rust:ty => $xla:ident),* $(,)?) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$xla;
            fn write_le(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

element! {
    i8 => S8, i16 => S16, i32 => S32, i64 => S64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
}

impl sealed::Sealed for bool {}
impl Element for bool {
    const TYPE: ElementType = ElementType::Pred;
    fn write_le(self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self));
    }
}
