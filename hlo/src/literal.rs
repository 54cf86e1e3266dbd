//! Constant arrays.

use half::{bf16, f16};
use pjrt_sys::protos::xla::LiteralProto;

use crate::{ArrayShape, Element, ElementType, Error, Result, Shape};

/// A constant array: a shape in row-major layout and the elements' little-endian bytes in that
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    shape: ArrayShape,
    bytes: Vec<u8>,
}

impl Literal {
    /// An array from its elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Literal`] where the number of elements is not the product of `dims`.
    pub fn new<T: Element>(elements: &[T], dims: &[i64]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(elements.len().saturating_mul(T::TYPE.size()));
        for &element in elements {
            element.write_le(&mut bytes);
        }
        Self::from_bytes(T::TYPE, dims, bytes)
    }

    /// A scalar.
    pub fn scalar<T: Element>(element: T) -> Self {
        let mut bytes = Vec::with_capacity(T::TYPE.size());
        element.write_le(&mut bytes);
        Self {
            shape: ArrayShape::scalar(T::TYPE),
            bytes,
        }
    }

    /// An array from the little-endian bytes of its elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Literal`] where the bytes do not fill the shape, or a `pred` byte is neither 0 nor
    /// 1; [`Error::InvalidShape`] where a size is negative.
    pub fn from_bytes(element_type: ElementType, dims: &[i64], bytes: Vec<u8>) -> Result<Self> {
        let shape = ArrayShape::new(element_type, dims);
        Shape::from(&shape).validate("constant")?;
        let wrong = |reason| Error::Literal {
            shape: shape.to_string(),
            reason,
        };
        if bytes.len() != shape.byte_size() {
            return Err(wrong(format!(
                "needs {} bytes, got {}",
                shape.byte_size(),
                bytes.len()
            )));
        }
        if element_type == ElementType::Pred
            && let Some(byte) = bytes.iter().find(|&&byte| byte > 1)
        {
            return Err(wrong(format!("byte {byte} is neither 0 nor 1")));
        }
        Ok(Self { shape, bytes })
    }

    /// A scalar of any element type: floats are rounded to nearest even, integers and `pred` (0 or
    /// 1) must hold the value exactly.
    ///
    /// # Errors
    /// [`Error::Unrepresentable`] where an integer type cannot hold the value.
    pub fn scalar_of(element_type: ElementType, value: f64) -> Result<Self> {
        let unrepresentable = Error::Unrepresentable {
            value,
            element_type,
        };
        macro_rules! integer {
            ($rust:ty) => {{
                // The upper bound is exclusive: MAX itself may round up to 2^63 or 2^64 as an f64.
                let above = (<$rust>::MAX as f64) + 1.0;
                if value.fract() != 0.0 || !(value >= <$rust>::MIN as f64 && value < above) {
                    return Err(unrepresentable);
                }
                Self::scalar(value as $rust)
            }};
        }
        Ok(match element_type {
            ElementType::Pred if value == 0.0 => Self::scalar(false),
            ElementType::Pred if value == 1.0 => Self::scalar(true),
            ElementType::Pred => return Err(unrepresentable),
            ElementType::S8 => integer!(i8),
            ElementType::S16 => integer!(i16),
            ElementType::S32 => integer!(i32),
            ElementType::S64 => integer!(i64),
            ElementType::U8 => integer!(u8),
            ElementType::U16 => integer!(u16),
            ElementType::U32 => integer!(u32),
            ElementType::U64 => integer!(u64),
            ElementType::F16 => Self::scalar(f16::from_f64(value)),
            ElementType::BF16 => Self::scalar(bf16::from_f64(value)),
            ElementType::F32 => Self::scalar(value as f32),
            ElementType::F64 => Self::scalar(value),
        })
    }

    /// The identity of `maximum`: minus infinity, the least integer, or false.
    pub fn lowest(element_type: ElementType) -> Self {
        Self {
            shape: ArrayShape::scalar(element_type),
            bytes: element_type.lowest_bytes(),
        }
    }

    /// The identity of `minimum`: infinity, the greatest integer, or true.
    pub fn highest(element_type: ElementType) -> Self {
        Self {
            shape: ArrayShape::scalar(element_type),
            bytes: element_type.highest_bytes(),
        }
    }

    /// The shape, always in row-major layout.
    pub fn shape(&self) -> &ArrayShape {
        &self.shape
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.shape.element_type
    }

    /// The elements' little-endian bytes in row-major order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The literal as XLA's protobuf: each element type has a field of its own, and types without
    /// one in protobuf's language travel as little-endian bytes.
    pub fn to_proto(&self) -> LiteralProto {
        let mut proto = LiteralProto {
            shape: Some(Shape::from(&self.shape).to_proto()),
            ..LiteralProto::default()
        };
        let bytes = &self.bytes;
        match self.element_type() {
            ElementType::Pred => proto.preds = bytes.iter().map(|&byte| byte != 0).collect(),
            ElementType::S8 => proto.s8s = bytes.clone(),
            ElementType::U8 => proto.u8s = bytes.clone(),
            ElementType::S16 => proto.s16s = bytes.clone(),
            ElementType::U16 => proto.u16s = bytes.clone(),
            ElementType::F16 => proto.f16s = bytes.clone(),
            ElementType::BF16 => proto.bf16s = bytes.clone(),
            ElementType::S32 => proto.s32s = words(bytes).map(i32::from_le_bytes).collect(),
            ElementType::U32 => proto.u32s = words(bytes).map(u32::from_le_bytes).collect(),
            ElementType::S64 => proto.s64s = words(bytes).map(i64::from_le_bytes).collect(),
            ElementType::U64 => proto.u64s = words(bytes).map(u64::from_le_bytes).collect(),
            ElementType::F32 => proto.f32s = words(bytes).map(f32::from_le_bytes).collect(),
            ElementType::F64 => proto.f64s = words(bytes).map(f64::from_le_bytes).collect(),
        }
        proto
    }
}

/// Bytes in words of N; a literal holds whole words only.
pub(crate) fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes
        .chunks_exact(N)
        .filter_map(|word| word.try_into().ok())
}

macro_rules! named_constructors {
    ($($rust:ty, $scalar:ident, $array:ident);* $(;)?) => {
        impl Literal {$(
            #[doc = concat!("A scalar from a `", stringify!($rust), "`.")]
            pub fn $scalar(element: $rust) -> Self {
                Self::scalar(element)
            }

            #[doc = concat!("An array of `", stringify!($rust), "` in row-major order; see [`Literal::new`].")]
            ///
            /// # Errors
            /// [`Error::Literal`] where the number of elements is not the product of `dims`.
            pub fn $array(elements: &[$rust], dims: &[i64]) -> Result<Self> {
                Self::new(elements, dims)
            }
        )*}
    };
}

named_constructors! {
    bool, scalar_bool, from_bool;
    i32, scalar_i32, from_i32;
    i64, scalar_i64, from_i64;
    u8, scalar_u8, from_u8;
    u32, scalar_u32, from_u32;
    u64, scalar_u64, from_u64;
    f16, scalar_f16, from_f16;
    bf16, scalar_bf16, from_bf16;
    f32, scalar_f32, from_f32;
    f64, scalar_f64, from_f64;
}
