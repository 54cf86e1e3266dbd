//! Shapes of arrays and tuples, with layouts.

use std::fmt;

use pjrt_sys::protos::xla::{LayoutProto, PrimitiveType, ShapeProto};

use crate::{ElementType, Error, Result};

/// Element type, sizes and layout of an array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArrayShape {
    /// The type of the elements.
    pub element_type: ElementType,
    /// The size of each dimension; empty for a scalar.
    pub dims: Vec<i64>,
    /// The layout: dimension numbers from the fastest varying to the slowest. Row-major, the
    /// default, counts down.
    pub minor_to_major: Vec<i64>,
}

impl ArrayShape {
    /// A shape in row-major layout. Sizes are checked where the shape is used.
    pub fn new(element_type: ElementType, dims: &[i64]) -> Self {
        Self {
            element_type,
            dims: dims.to_vec(),
            minor_to_major: row_major(dims.len()),
        }
    }

    /// The shape of a scalar.
    pub fn scalar(element_type: ElementType) -> Self {
        Self::new(element_type, &[])
    }

    /// The same shape in another layout. The layout is checked where the shape is used.
    pub fn with_layout(mut self, minor_to_major: &[i64]) -> Self {
        self.minor_to_major = minor_to_major.to_vec();
        self
    }

    /// The same sizes and layout with another element type.
    pub fn with_element_type(mut self, element_type: ElementType) -> Self {
        self.element_type = element_type;
        self
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Whether the array is a single element without dimensions.
    pub fn is_scalar(&self) -> bool {
        self.dims.is_empty()
    }

    /// The number of elements: 0 where a size is negative, the greatest `usize` where the product
    /// exceeds it.
    pub fn element_count(&self) -> usize {
        let sizes = self.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0));
        // A zero anywhere makes the product zero, also where the other sizes would overflow.
        if sizes.clone().any(|d| d == 0) {
            return 0;
        }
        sizes.fold(1, usize::saturating_mul)
    }

    /// The bytes of the elements, densely packed; saturates as [`ArrayShape::element_count`] does.
    pub fn byte_size(&self) -> usize {
        self.element_count()
            .saturating_mul(self.element_type.size())
    }

    /// Whether element type and sizes are equal, whatever the layouts.
    pub fn is_compatible(&self, other: &ArrayShape) -> bool {
        self.element_type == other.element_type && self.dims == other.dims
    }

    fn validate(&self, op: &'static str) -> Result<()> {
        let invalid = |reason| Error::InvalidShape {
            op,
            shape: self.to_string(),
            reason,
        };
        let mut bytes = i64::try_from(self.element_type.size()).unwrap_or(i64::MAX);
        for &dim in &self.dims {
            if dim < 0 {
                return Err(invalid("a size is negative"));
            }
            // Zero sizes do not excuse the others: XLA multiplies them in any order.
            bytes = bytes
                .checked_mul(dim.max(1))
                .ok_or_else(|| invalid("more bytes than 63 bits count"))?;
        }
        let mut sorted = self.minor_to_major.clone();
        sorted.sort_unstable();
        if sorted.len() != self.rank() || (0i64..).zip(&sorted).any(|(i, &dim)| i != dim) {
            return Err(invalid("the layout is no permutation of the dimensions"));
        }
        Ok(())
    }
}

/// Row-major layout: the last dimension varies fastest.
fn row_major(rank: usize) -> Vec<i64> {
    (0i64..)
        .take(rank)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}

impl fmt::Display for ArrayShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.element_type, comma(&self.dims))?;
        if self.minor_to_major.is_empty() {
            return Ok(());
        }
        write!(f, "{{{}}}", comma(&self.minor_to_major))
    }
}

/// Numbers as HLO text lists them: `0,2,1`.
pub(crate) fn comma(numbers: &[i64]) -> String {
    let words: Vec<String> = numbers.iter().map(i64::to_string).collect();
    words.join(",")
}

/// The shape of a value: an array or a tuple of shapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Shape {
    /// An array.
    Array(ArrayShape),
    /// A tuple; its parts may be tuples.
    Tuple(Vec<Shape>),
}

impl Shape {
    /// An array shape in row-major layout.
    pub fn array(element_type: ElementType, dims: &[i64]) -> Self {
        Self::Array(ArrayShape::new(element_type, dims))
    }

    /// The shape of a scalar.
    pub fn scalar(element_type: ElementType) -> Self {
        Self::array(element_type, &[])
    }

    /// The array shape, unless this is a tuple.
    pub fn as_array(&self) -> Option<&ArrayShape> {
        match self {
            Self::Array(array) => Some(array),
            Self::Tuple(_) => None,
        }
    }

    /// The parts, unless this is an array.
    pub fn as_tuple(&self) -> Option<&[Shape]> {
        match self {
            Self::Array(_) => None,
            Self::Tuple(parts) => Some(parts),
        }
    }

    /// The array at an index into nested tuples; an array itself is at the empty index.
    pub fn leaf(&self, index: &[i64]) -> Option<&ArrayShape> {
        match (self, index) {
            (Self::Array(array), []) => Some(array),
            (Self::Tuple(parts), [first, rest @ ..]) => {
                parts.get(usize::try_from(*first).ok()?)?.leaf(rest)
            }
            _ => None,
        }
    }

    pub(crate) fn leaf_mut(&mut self, index: &[i64]) -> Option<&mut ArrayShape> {
        match (self, index) {
            (Self::Array(array), []) => Some(array),
            (Self::Tuple(parts), [first, rest @ ..]) => {
                parts.get_mut(usize::try_from(*first).ok()?)?.leaf_mut(rest)
            }
            _ => None,
        }
    }

    /// Whether structure, element types and sizes are equal, whatever the layouts.
    pub fn is_compatible(&self, other: &Shape) -> bool {
        match (self, other) {
            (Self::Array(a), Self::Array(b)) => a.is_compatible(b),
            (Self::Tuple(a), Self::Tuple(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_compatible(b))
            }
            _ => false,
        }
    }

    /// The same shape with every array in row-major layout.
    pub fn in_row_major(self) -> Self {
        match self {
            Self::Array(array) => Self::array(array.element_type, &array.dims),
            Self::Tuple(parts) => Self::Tuple(parts.into_iter().map(Shape::in_row_major).collect()),
        }
    }

    /// The bytes of all arrays; saturates.
    pub fn byte_size(&self) -> usize {
        match self {
            Self::Array(array) => array.byte_size(),
            Self::Tuple(parts) => parts
                .iter()
                .map(Shape::byte_size)
                .fold(0, usize::saturating_add),
        }
    }

    /// Refuses negative sizes, sizes beyond 63 bits and layouts that are no permutation.
    pub(crate) fn validate(&self, op: &'static str) -> Result<()> {
        match self {
            Self::Array(array) => array.validate(op),
            Self::Tuple(parts) => parts.iter().try_for_each(|part| part.validate(op)),
        }
    }

    /// The shape as XLA's protobuf, layouts included.
    pub fn to_proto(&self) -> ShapeProto {
        match self {
            Self::Array(array) => ShapeProto {
                element_type: array.element_type.to_proto().into(),
                dimensions: array.dims.clone(),
                is_dynamic_dimension: vec![false; array.dims.len()],
                layout: Some(Box::new(LayoutProto {
                    minor_to_major: array.minor_to_major.clone(),
                    tail_padding_alignment_in_elements: 1,
                    ..LayoutProto::default()
                })),
                ..ShapeProto::default()
            },
            Self::Tuple(parts) => ShapeProto {
                element_type: PrimitiveType::Tuple.into(),
                tuple_shapes: parts.iter().map(Shape::to_proto).collect(),
                ..ShapeProto::default()
            },
        }
    }
}

impl From<ArrayShape> for Shape {
    fn from(array: ArrayShape) -> Self {
        Self::Array(array)
    }
}

impl From<&ArrayShape> for Shape {
    fn from(array: &ArrayShape) -> Self {
        Self::Array(array.clone())
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(array) => array.fmt(f),
            Self::Tuple(parts) => {
                f.write_str("(")?;
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    part.fmt(f)?;
                }
                f.write_str(")")
            }
        }
    }
}
