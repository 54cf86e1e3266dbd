//! A view of one tensor: what it is, and where its bytes are.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::element::Element;
use super::layout::{Axis, Layout};
use super::orbax::Array;
use super::positional::ReadAt;
use super::transform::Transform;
use super::{Error, Result};
use crate::dtype::DType;

/// A file of a checkpoint, with its bytes.
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) source: Box<dyn ReadAt>,
}

/// Bytes of a tensor that are adjacent in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first byte's position in the stored tensor.
    pub(super) start: usize,
    /// The first byte's position in the file.
    pub(super) offset: u64,
    /// The number of bytes.
    pub(super) len: usize,
}

/// What a format's parser finds out about one tensor.
///
/// The parser guarantees that extents follow each other without gaps, lie within the file, and
/// add up to the bytes that shape and element type need, a number that fits `usize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) name: Arc<str>,
    pub(super) dtype: DType,
    /// Whether the file has float64, of which `dtype`, float32, is read.
    pub(super) is_float64: bool,
    pub(super) shape: Vec<usize>,
    pub(super) extents: Vec<Extent>,
}

impl Stored {
    /// A tensor in these extents. `element` is one that is read.
    pub(super) fn new(
        name: &str,
        element: Element,
        shape: Vec<usize>,
        extents: Vec<Extent>,
    ) -> Self {
        let (dtype, is_float64) = match element {
            Element::Float(dtype) => (dtype, false),
            Element::Float64 | Element::Other(_) => (DType::F32, true),
        };
        Stored {
            name: name.into(),
            dtype,
            is_float64,
            shape,
            extents,
        }
    }

    /// A tensor whose bytes are adjacent.
    pub(super) fn contiguous(
        name: &str,
        element: Element,
        shape: Vec<usize>,
        offset: u64,
        len: usize,
    ) -> Self {
        let extent = Extent {
            start: 0,
            offset,
            len,
        };
        Self::new(name, element, shape, vec![extent])
    }
}

/// The bytes that a stored array of this shape has, if they can be counted: its sizes can be
/// multiplied in any order, those of zero left out, so that no view of it overflows. Nothing for
/// elements that are not read.
pub(super) fn byte_len(shape: &[usize], element: Element) -> Option<usize> {
    let some = shape
        .iter()
        .filter(|size| **size > 0)
        .try_fold(element.size()?, |bytes, size| bytes.checked_mul(*size))?;
    Some(if shape.contains(&0) { 0 } else { some })
}

/// Another name and layout than the stored ones.
#[derive(Debug)]
struct View {
    name: Arc<str>,
    shape: Vec<usize>,
    layout: Layout,
    transform: Option<Transform>,
}

/// A view of one tensor of a checkpoint. It holds no tensor bytes, and cloning it is cheap.
///
/// Its name and layout are Flax's, whatever the file's are: see [`Tensor::stored_name`] and
/// [`Tensor::stored_shape`] for those.
#[derive(Clone)]
pub struct Tensor {
    file: Arc<DataFile>,
    stored: Arc<Stored>,
    /// The array with the elements, where they are in chunks and not in extents of the file.
    array: Option<Arc<Array>>,
    view: Option<Arc<View>>,
    byte_len: usize,
}

impl Tensor {
    pub(super) fn new(file: Arc<DataFile>, stored: Stored) -> Self {
        let bytes = stored
            .extents
            .last()
            .map_or(0, |last| last.start.saturating_add(last.len));
        Tensor {
            file,
            byte_len: bytes / (1 + usize::from(stored.is_float64)),
            stored: Arc::new(stored),
            array: None,
            view: None,
        }
    }

    /// A tensor of this name whose elements are in an array's chunks.
    pub(super) fn chunked(name: &str, array: Arc<Array>) -> Self {
        let element = Element::Float(array.dtype());
        let shape = array.shape().to_vec();
        let file = DataFile {
            path: array.file(),
            source: Box::new(Vec::new()),
        };
        Tensor {
            file: Arc::new(file),
            byte_len: byte_len(&shape, element).unwrap_or_default(),
            stored: Arc::new(Stored::new(name, element, shape, Vec::new())),
            array: Some(array),
            view: None,
        }
    }

    /// A view of this tensor's stored elements by another name. The layout stays within them.
    pub(super) fn viewed(&self, name: Arc<str>, layout: Layout) -> Self {
        self.changed(name, layout, self.transform())
    }

    /// The same elements, each of them changed. It replaces a change that this view has already.
    pub(super) fn transformed(&self, transform: Transform) -> Self {
        self.changed(self.shared_name(), self.layout(), Some(transform))
    }

    fn changed(&self, name: Arc<str>, layout: Layout, transform: Option<Transform>) -> Self {
        let shape = layout.shape();
        let elements: usize = shape.iter().product();
        Tensor {
            byte_len: elements * self.dtype().size(),
            view: Some(Arc::new(View {
                name,
                shape,
                layout,
                transform,
            })),
            ..self.clone()
        }
    }

    /// This tensor by another name.
    pub(super) fn renamed(&self, name: Arc<str>) -> Self {
        self.viewed(name, self.layout())
    }

    /// The same elements with the dimensions in reverse order: a view, no copy.
    pub fn transposed(&self) -> Self {
        self.viewed(self.shared_name(), self.layout().transposed())
    }

    /// The part of this tensor with these indices of dimension `dim`: a view, no copy.
    ///
    /// # Errors
    /// [`Error::Slice`] where the tensor has no such part, or a dimension that is stored as several
    /// (heads and head_dim) is cut within one of the outer's steps.
    pub fn slice(&self, dim: usize, range: Range<usize>) -> Result<Self> {
        match self.layout().sliced(dim, &range) {
            Some(layout) => Ok(self.viewed(self.shared_name(), layout)),
            None => Err(Error::Slice {
                file: self.file.path.clone(),
                tensor: self.name().to_owned(),
                shape: self.shape().to_vec(),
                dim,
                start: range.start,
                end: range.end,
            }),
        }
    }

    /// How its elements lie among the stored ones.
    pub(super) fn layout(&self) -> Layout {
        match &self.view {
            Some(view) => view.layout.clone(),
            None => Layout::stored(&self.stored.shape),
        }
    }

    /// The same view of the elements as they are stored.
    pub(super) fn without_transform(&self) -> Self {
        self.changed(self.shared_name(), self.layout(), None)
    }

    /// What is done to each stored element.
    pub(super) fn transform(&self) -> Option<Transform> {
        self.view.as_ref().and_then(|view| view.transform)
    }

    pub(super) fn array(&self) -> Option<&Arc<Array>> {
        self.array.as_ref()
    }

    /// The name, joined by slashes: `model/layers/0/self_attn/q_proj/kernel`.
    pub fn name(&self) -> &str {
        self.view.as_ref().map_or(&self.stored.name, |v| &v.name)
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        Arc::clone(self.view.as_ref().map_or(&self.stored.name, |v| &v.name))
    }

    /// The element type that it is read in: the stored one, or float32 where float64 is stored.
    /// Where stored values are changed to be the model's, [`Tensor::read_into`] computes them in
    /// float32 and rounds once.
    pub fn dtype(&self) -> DType {
        self.stored.dtype
    }

    /// The dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        self.view.as_ref().map_or(&self.stored.shape, |v| &v.shape)
    }

    /// numpy's name of the element type that the file has it in.
    pub fn stored_dtype(&self) -> &'static str {
        match self.stored.is_float64 {
            true => Element::Float64.name(),
            false => self.dtype().numpy_name(),
        }
    }

    /// The bytes that the file has it in.
    pub fn stored_bytes(&self) -> u64 {
        self.byte_len as u64 * (1 + u64::from(self.stored.is_float64))
    }

    /// Whether the file has it in float64, of which float32 is read.
    pub(super) fn is_float64(&self) -> bool {
        self.stored.is_float64
    }

    /// The number of bytes as they are read: the product of the shape times the element's size.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// The file that has the bytes.
    pub fn file(&self) -> &Path {
        &self.file.path
    }

    /// Its name in the file. Several tensors can be views of one stored tensor.
    pub fn stored_name(&self) -> &str {
        &self.stored.name
    }

    /// The shape that the file has it in.
    pub fn stored_shape(&self) -> &[usize] {
        &self.stored.shape
    }

    /// Fills `out` with the tensor's bytes from `byte_offset` on: elements in C order, little
    /// endian.
    ///
    /// The bytes go from the file straight into `out`. Any number of threads may read at once.
    /// Where the file has the elements in another order, each run of them is read by itself:
    /// [`Tensor::read_into`] reads whole tensors faster then.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] where the tensor has fewer bytes; [`Error::Read`] where the file
    /// cannot be read, or has become shorter since it was opened; [`Error::Orbax`] where a chunk is
    /// damaged. What `out` then holds is unspecified.
    pub fn read_at(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        if byte_offset
            .checked_add(out.len())
            .is_none_or(|end| end > self.byte_len)
        {
            return Err(self.out_of_range(byte_offset, out.len()));
        }
        if self.array.is_some() || self.transform().is_some() {
            return self.read_elements_at(byte_offset, out);
        }
        let Some(view) = &self.view else {
            return self.read_stored(byte_offset, out);
        };
        let size = self.dtype().size();
        let mut axes = view.layout.axes();
        // The elements of one run are adjacent in the file.
        let run = match axes.last() {
            Some(Axis { size, stride: 1 }) => {
                let size = *size;
                axes.pop();
                size
            }
            _ => 1,
        };
        let (mut at, mut rest) = (byte_offset, out);
        while !rest.is_empty() {
            let element = at / size;
            let mut place = view.layout.offset + element % run;
            let mut index = element / run;
            for axis in axes.iter().rev() {
                place += index % axis.size * axis.stride;
                index /= axis.size;
            }
            let within = at % size;
            let len = ((run - element % run) * size - within).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.read_stored(place * size + within, now)?;
            at += len;
            rest = later;
        }
        Ok(())
    }

    pub(super) fn out_of_range(&self, start: usize, len: usize) -> Error {
        Error::OutOfRange {
            file: self.file.path.clone(),
            tensor: self.name().to_owned(),
            start,
            len,
            byte_len: self.byte_len,
        }
    }

    /// Fills `out` with bytes in the stored order. The range lies within them.
    pub(super) fn read_stored(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        match self.stored.is_float64 {
            false => self.read_raw(byte_offset, out),
            true => self.read_float64(byte_offset, out),
        }
    }

    /// The same where the file has float64 and float32 is wanted.
    fn read_float64(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        const ELEMENTS: usize = 1 << 13;
        let (mut at, mut rest) = (byte_offset, out);
        while !rest.is_empty() {
            // A range may begin and end within an element.
            let (first, within) = (at / 4, at % 4);
            let count = (within + rest.len()).div_ceil(4).min(ELEMENTS);
            let mut wide = vec![0; count * 8];
            self.read_raw(first * 8, &mut wide)?;
            let narrow = wide.as_chunks().0.iter().flat_map(|element| {
                let value = f64::from_le_bytes(*element);
                (value as f32).to_le_bytes()
            });
            let len = (count * 4 - within).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            for (byte, value) in now.iter_mut().zip(narrow.skip(within)) {
                *byte = value;
            }
            at += len;
            rest = later;
        }
        Ok(())
    }

    /// Fills `out` with bytes as the file has them.
    fn read_raw(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        // Extents are contiguous and end at the stored bytes' end, so that no sum here overflows
        // and no difference is negative.
        let extents = &self.stored.extents;
        let first = extents.partition_point(|extent| extent.start + extent.len <= byte_offset);
        let (mut at, mut rest) = (byte_offset, out);
        for extent in extents.iter().skip(first) {
            if rest.is_empty() {
                break;
            }
            let within = at - extent.start;
            let (now, later) = rest.split_at_mut(rest.len().min(extent.len - within));
            let offset = extent.offset + within as u64;
            self.file
                .source
                .read_exact_at(now, offset)
                .map_err(|source| Error::Read {
                    file: self.file.path.clone(),
                    tensor: self.stored.name.to_string(),
                    offset,
                    source,
                })?;
            at += now.len();
            rest = later;
        }
        Ok(())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("file", &self.file.path)
            .field("stored", &self.stored)
            .field("view", &self.view)
            .finish()
    }
}
