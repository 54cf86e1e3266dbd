//! What a custom call is, and the arrays that it reads and writes.

use hlo::ElementType;

use super::attributes::Attributes;

/// A function of this process that XLA programs on CPUs can call. Its arrays are memory of the
/// host, which is why it can be registered for no other platform.
pub trait CustomCall: 'static {
    /// The name that programs call it by: the custom call's target.
    const TARGET: &'static str;

    /// Computes the results from the operands. It is called from any thread, from several at once,
    /// and must not call PJRT. A panic becomes an error of the program.
    ///
    /// # Errors
    /// The message that the program fails with, for example that the operands have the wrong
    /// shapes.
    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> std::result::Result<(), String>;
}

/// A dense, row-major array that a program hands to a [`CustomCall`].
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    pub(super) element_type: ElementType,
    pub(super) dims: &'a [i64],
    pub(super) bytes: &'a [u8],
}

/// A dense, row-major array that a [`CustomCall`] computes.
#[derive(Debug)]
pub struct CallResult<'a> {
    pub(super) element_type: ElementType,
    pub(super) dims: &'a [i64],
    pub(super) bytes: &'a mut [u8],
}

impl<'a> Operand<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The size of each dimension; none is negative.
    pub fn dims(&self) -> &'a [i64] {
        self.dims
    }

    /// The elements in the machine's byte order; as many as the dimensions specify.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl CallResult<'_> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// The size of each dimension; none is negative.
    pub fn dims(&self) -> &[i64] {
        self.dims
    }

    /// The elements in the machine's byte order; as many as the dimensions specify. They are
    /// arbitrary before they are written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

macro_rules! elements {
    ($($method:ident $method_mut:ident $element:ty, $variant:ident;)*) => {
        impl<'a> Operand<'a> {$(
            /// The elements, where they are of this type.
            pub fn $method(&self) -> Option<&'a [$element]> {
                if self.element_type != ElementType::$variant {
                    return None;
                }
                // SAFETY: any bits are a value of this type, and it has no padding.
                let (before, elements, after) = unsafe { self.bytes.align_to::<$element>() };
                (before.is_empty() && after.is_empty()).then_some(elements)
            }
        )*}

        impl CallResult<'_> {$(
            /// The elements, where they are of this type. They are arbitrary before they are
            /// written.
            pub fn $method_mut(&mut self) -> Option<&mut [$element]> {
                if self.element_type != ElementType::$variant {
                    return None;
                }
                // SAFETY: any bits are a value of this type, and it has no padding.
                let (before, elements, after) = unsafe { self.bytes.align_to_mut::<$element>() };
                (before.is_empty() && after.is_empty()).then_some(elements)
            }
        )*}
    };
}

elements! {
    as_f32 as_f32_mut f32, F32;
    as_bf16 as_bf16_mut half::bf16, BF16;
    as_s32 as_s32_mut i32, S32;
    as_u16 as_u16_mut u16, U16;
}
