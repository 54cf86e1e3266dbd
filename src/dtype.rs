//! Element types that parameters are stored in and computed with.

use std::fmt;
use std::str::FromStr;

/// A floating-point element type of parameters and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32 (8 exponent bits, 7 mantissa bits).
    BF16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// numpy's name of the type (`bfloat16` is that of `ml_dtypes`).
    pub const fn numpy_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
        }
    }

    /// The type with this numpy name, if it is one of ours.
    pub fn from_numpy_name(name: &str) -> Option<Self> {
        match name {
            "float32" => Some(DType::F32),
            "float16" => Some(DType::F16),
            "bfloat16" => Some(DType::BF16),
            _ => None,
        }
    }

    /// The type that numpy's and JAX's promotion gives for an operation on both:
    /// two different 16-bit floats, or anything with a float32, make a float32.
    pub fn promote(self, other: Self) -> Self {
        if self == other { self } else { DType::F32 }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.numpy_name())
    }
}

/// A name that is no [`DType`].
#[derive(Debug, thiserror::Error)]
#[error("unknown dtype '{0}' (known: bf16, f16, f32)")]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    /// Reads the command line's short names (`bf16`, `f16`, `f32`) and numpy's.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "f32" => Ok(DType::F32),
            "f16" => Ok(DType::F16),
            "bf16" => Ok(DType::BF16),
            _ => Self::from_numpy_name(s).ok_or_else(|| UnknownDType(s.to_owned())),
        }
    }
}

impl From<DType> for hlo::ElementType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => hlo::ElementType::F32,
            DType::F16 => hlo::ElementType::F16,
            DType::BF16 => hlo::ElementType::BF16,
        }
    }
}
