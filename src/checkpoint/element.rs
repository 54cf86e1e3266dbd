//! Element types as files name them, and how each is read.

use std::sync::Arc;

use crate::dtype::DType;

/// An element type that a file can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// Read as it is stored.
    Float(DType),
    /// float64, which is read as float32, as JAX does.
    Float64,
    /// A type that no parameter has: integers, booleans, and floats of 8 bits or fewer.
    Other(&'static str),
}

/// numpy's and `ml_dtypes`' names of the types that are recognised and not read.
const OTHERS: [&str; 19] = [
    "bool",
    "int4",
    "uint4",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
];

impl Element {
    /// The type with this name in numpy or `ml_dtypes`.
    pub(super) fn from_numpy_name(name: &str) -> Option<Self> {
        if let Some(dtype) = DType::from_numpy_name(name) {
            return Some(Element::Float(dtype));
        }
        if name == "float64" {
            return Some(Element::Float64);
        }
        let known = OTHERS.iter().find(|known| **known == name)?;
        Some(Element::Other(known))
    }

    /// Bytes of one stored element, for a type that is read.
    pub(super) fn size(self) -> Option<usize> {
        match self {
            Element::Float(dtype) => Some(dtype.size()),
            Element::Float64 => Some(8),
            Element::Other(_) => None,
        }
    }

    /// numpy's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Element::Float(dtype) => dtype.numpy_name(),
            Element::Float64 => "float64",
            Element::Other(name) => name,
        }
    }
}

/// A stored tensor that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) name: Arc<str>,
    pub(super) element: &'static str,
    pub(super) shape: Vec<usize>,
}

impl Unread {
    /// Whether it holds quantised weights. A matrix of bytes does, and so do the packed integers
    /// of GPTQ and AWQ; position ids, steps and masks do not.
    pub(super) fn is_quantised(&self) -> bool {
        let is_matrix = self.shape.iter().filter(|size| **size > 1).count() >= 2;
        let packed = |suffix| self.name.ends_with(suffix);
        match self.element {
            "int4" | "uint4" | "int8" | "uint8" => {
                is_matrix || packed(".weight") || packed("/kernel")
            }
            "int32" => packed("qweight") || packed("qzeros"),
            name => name.starts_with("float"),
        }
    }
}
