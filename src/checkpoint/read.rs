//! Reads whole tensors as they are needed: cast, and in C order, whatever the order in the file.
//! All cores read at once, each its own part of the result, so that only one small block per core
//! is held beside the result.

use std::sync::Arc;

use rayon::prelude::*;

use super::layout::{Axis, Layout};
use super::orbax::Target;
use super::transform::convert;
use super::{Result, Tensor};
use crate::dtype::DType;

/// Elements that one task makes where the stored order is C order, and about as many where it is
/// not.
const TASK_ELEMENTS: usize = 1 << 18;
/// Elements that are adjacent in the file and are read at once, where the order differs.
const BLOCK_COLUMNS: usize = 2048;
/// Runs of such elements that are read before they are written: 64 two-byte elements are two cache
/// lines.
const BLOCK_ROWS: usize = 64;

impl Tensor {
    /// Reads the whole tensor into `out`: elements in C order, cast to `to`, little endian.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](super::Error::OutOfRange) where `out` does not have exactly the bytes
    /// that the tensor takes in `to`; [`Error::Read`](super::Error::Read) as with
    /// [`Tensor::read_at`].
    pub fn read_into(&self, to: DType, out: &mut [u8]) -> Result<()> {
        let (from, to_size) = (self.dtype(), to.size());
        let elements = self.byte_len() / from.size();
        if elements.checked_mul(to_size) != Some(out.len()) {
            return Err(self.out_of_range(0, out.len() / to_size * from.size()));
        }
        if elements == 0 {
            return Ok(());
        }
        let layout = self.layout();
        if let Some(array) = self.array() {
            return array.read(&mut [self.target(to, 0, out)]);
        }
        match layout.axes().as_slice() {
            [] | [Axis { stride: 1, .. }] => self.read_flat(layout.offset, to, out),
            axes if to_size == 2 => self.read_strided::<2>(layout.offset, axes, to, out),
            axes => self.read_strided::<4>(layout.offset, axes, to, out),
        }
    }

    /// Reads several tensors, each into its memory as [`Tensor::read_into`] does. Those that come
    /// from one compressed array are read in one pass over it.
    ///
    /// # Errors
    /// As [`Tensor::read_into`], for the first that fails.
    pub fn read_together(reads: Vec<(Tensor, DType, &mut [u8])>) -> Result<()> {
        let mut passes: Vec<Vec<(Tensor, DType, &mut [u8])>> = Vec::new();
        for read in reads {
            let (tensor, to, out) = &read;
            let elements = tensor.byte_len() / tensor.dtype().size();
            let pass = passes.iter_mut().find(|pass| {
                let first = pass.first().and_then(|(first, _, _)| first.pass());
                first.is_some() && first == tensor.pass()
            });
            match pass {
                Some(pass) if elements * to.size() == out.len() => pass.push(read),
                _ => passes.push(vec![read]),
            }
        }
        passes.into_par_iter().try_for_each(|mut pass| {
            if let [(tensor, to, out)] = pass.as_mut_slice() {
                return tensor.read_into(*to, out);
            }
            let Some(array) = pass
                .first()
                .and_then(|(tensor, _, _)| tensor.array().cloned())
            else {
                return Ok(());
            };
            let reads = pass.iter_mut();
            let targets = reads.map(|(tensor, to, out)| tensor.target(*to, 0, out));
            array.read(&mut targets.collect::<Vec<_>>())
        })
    }

    /// A number that tensors share which [`Tensor::read_together`] reads in one pass; nothing where
    /// nothing is gained by that.
    pub fn pass(&self) -> Option<usize> {
        self.array().map(|array| Arc::as_ptr(array).addr())
    }

    /// Memory for the elements from `first` on, cast to `to`, as many as `out` has room for.
    fn target<'a>(&self, to: DType, first: usize, out: &'a mut [u8]) -> Target<'a> {
        let dtypes = [self.dtype(), to];
        Target::new(&self.layout(), first, dtypes, self.transform(), out)
    }

    /// Fills `out` with bytes that are within the tensor, of elements that have to be decoded or
    /// changed first.
    pub(super) fn read_elements_at(&self, byte_offset: usize, out: &mut [u8]) -> Result<()> {
        let dtype = self.dtype();
        let (first, within) = (byte_offset / dtype.size(), byte_offset % dtype.size());
        if within == 0 && out.len().is_multiple_of(dtype.size()) {
            if let Some(array) = self.array() {
                return array.read(&mut [self.target(dtype, first, out)]);
            }
            let stored = self.without_transform();
            let mut raw = Vec::new();
            for (block, out) in out.chunks_mut(TASK_ELEMENTS * dtype.size()).enumerate() {
                raw.resize(out.len(), 0);
                let offset = (first + block * TASK_ELEMENTS) * dtype.size();
                stored.read_at(offset, &mut raw)?;
                convert(dtype, &raw, self.transform(), dtype, out);
            }
            return Ok(());
        }
        // Elements that are cut at either end.
        let last = (byte_offset + out.len()).div_ceil(dtype.size());
        let mut whole = vec![0; (last - first) * dtype.size()];
        self.read_elements_at(first * dtype.size(), &mut whole)?;
        out.copy_from_slice(&whole[within..within + out.len()]);
        Ok(())
    }

    /// Views that together are this tensor's elements in order, each of at most about this many
    /// elements.
    pub(super) fn slabs(&self, elements: usize) -> impl Iterator<Item = Tensor> {
        let layout = self.layout();
        let mut axes = layout.axes();
        let outer = match axes.is_empty() {
            true => Axis { size: 1, stride: 1 },
            false => axes.remove(0),
        };
        let step: usize = axes.iter().map(|axis| axis.size).product();
        let steps = elements.checked_div(step).unwrap_or(1).max(1);
        (0..outer.size).step_by(steps).map(move |first| {
            let part = Axis {
                size: steps.min(outer.size - first),
                stride: outer.stride,
            };
            let mut dimensions = vec![vec![part]];
            dimensions.extend(axes.iter().map(|axis| vec![*axis]));
            let offset = layout.offset + first * outer.stride;
            self.viewed(self.shared_name(), Layout { offset, dimensions })
        })
    }

    /// Reads the stored elements from `first` on.
    fn read_flat(&self, first: usize, to: DType, out: &mut [u8]) -> Result<()> {
        let (from, transform) = (self.dtype(), self.transform());
        out.par_chunks_mut(TASK_ELEMENTS * to.size())
            .enumerate()
            .try_for_each_init(Vec::new, |raw: &mut Vec<u8>, (task, out)| {
                let offset = (first + task * TASK_ELEMENTS) * from.size();
                if from == to && transform.is_none() {
                    return self.read_stored(offset, out);
                }
                raw.resize(out.len() / to.size() * from.size(), 0);
                self.read_stored(offset, raw)?;
                convert(from, raw, transform, to, out);
                Ok(())
            })
    }

    /// Reads elements that the axes enumerate from `first` on. `SIZE` is that of an element of
    /// `to`.
    fn read_strided<const SIZE: usize>(
        &self,
        first: usize,
        axes: &[Axis],
        to: DType,
        out: &mut [u8],
    ) -> Result<()> {
        let Some((outer, inner)) = axes.split_first() else {
            return Ok(());
        };
        // Each task makes some of the outermost axis's steps. Where these are adjacent in the file,
        // it takes enough to read long runs.
        let step: usize = inner.iter().map(|axis| axis.size).product();
        let steps = match outer.stride {
            1 => BLOCK_COLUMNS,
            _ => TASK_ELEMENTS.div_ceil(step),
        };
        let steps = steps.min(outer.size);
        out.par_chunks_mut(steps * step * SIZE)
            .enumerate()
            .try_for_each(|(task, out)| {
                let mut axes = axes.to_vec();
                if let Some(outer) = axes.first_mut() {
                    outer.size = out.len() / (step * SIZE);
                }
                let first = first + task * steps * outer.stride;
                self.read_task::<SIZE>(first, &axes, to, out)
            })
    }

    fn read_task<const SIZE: usize>(
        &self,
        first: usize,
        axes: &[Axis],
        to: DType,
        out: &mut [u8],
    ) -> Result<()> {
        let Plan {
            columns,
            rows,
            others,
        } = Plan::new(axes);
        let mut block = Block::<SIZE>::new(columns.read.size.min(BLOCK_COLUMNS));
        let count: usize = others.iter().map(|axis| axis.read.size).product();
        for combination in 0..count {
            let (mut source, mut target, mut index) = (first, 0, combination);
            for axis in others.iter().rev() {
                source += index % axis.read.size * axis.read.stride;
                target += index % axis.read.size * axis.write_stride;
                index /= axis.read.size;
            }
            for row in (0..rows.read.size).step_by(BLOCK_ROWS) {
                let height = BLOCK_ROWS.min(rows.read.size - row);
                for column in (0..columns.read.size).step_by(BLOCK_COLUMNS) {
                    let width = BLOCK_COLUMNS.min(columns.read.size - column);
                    let source = source + row * rows.read.stride + column;
                    block.fill(self, source, rows.read.stride, [height, width], to)?;
                    let target = target + row * rows.write_stride + column * columns.write_stride;
                    let strides = [rows.write_stride, columns.write_stride];
                    block.write(&mut out[target * SIZE..], [height, width], strides);
                }
            }
        }
        Ok(())
    }
}

/// An axis of what is read, with the elements that each of its steps passes in what is written.
#[derive(Clone, Copy)]
struct Transfer {
    read: Axis,
    write_stride: usize,
}

/// Which axes make the blocks that are read and written at once.
struct Plan {
    /// The axis whose steps are adjacent in the file.
    columns: Transfer,
    /// The axis whose steps are adjacent in what is written; where that is `columns`, the next one
    /// in the file's order.
    rows: Transfer,
    others: Vec<Transfer>,
}

impl Plan {
    fn new(axes: &[Axis]) -> Self {
        let sizes: Vec<usize> = axes.iter().map(|axis| axis.size).collect();
        let mut transfers: Vec<Transfer> = axes
            .iter()
            .zip(super::layout::c_order(&sizes))
            .map(|(&read, write)| Transfer {
                read,
                write_stride: write.stride,
            })
            .collect();
        // An axis of one step stands in where there is none of its kind.
        let single = Transfer {
            read: Axis { size: 1, stride: 1 },
            write_stride: 1,
        };
        let columns = transfers
            .iter()
            .position(|axis| axis.read.stride == 1)
            .map_or(single, |at| transfers.remove(at));
        let rows = if columns.write_stride == 1 {
            let nearest = |&at: &usize| transfers.get(at).map(|axis| axis.read.stride);
            (0..transfers.len()).min_by_key(nearest)
        } else {
            transfers.iter().position(|axis| axis.write_stride == 1)
        };
        let rows = rows.map_or(single, |at| transfers.remove(at));
        Plan {
            columns,
            rows,
            others: transfers,
        }
    }
}

/// A part of a tensor between reading and writing, already cast.
struct Block<const SIZE: usize> {
    raw: Vec<u8>,
    lines: Vec<u8>,
    /// Bytes from one line to the next. It is not a power of two, so that the lines use different
    /// cache sets.
    stride: usize,
}

impl<const SIZE: usize> Block<SIZE> {
    fn new(width: usize) -> Self {
        let stride = (width + 64 / SIZE) * SIZE;
        Block {
            raw: Vec::new(),
            lines: vec![0; stride * BLOCK_ROWS],
            stride,
        }
    }

    /// Reads `height` lines of `width` elements; each begins `row_stride` stored elements after the
    /// one before.
    fn fill(
        &mut self,
        tensor: &Tensor,
        first: usize,
        row_stride: usize,
        [height, width]: [usize; 2],
        to: DType,
    ) -> Result<()> {
        let (from, transform) = (tensor.dtype(), tensor.transform());
        let line = width * from.size();
        // Lines that follow each other in the file are read at once.
        let together = row_stride == width;
        self.raw
            .resize(if together { height * line } else { line }, 0);
        if together {
            tensor.read_stored(first * from.size(), &mut self.raw)?;
        }
        for row in 0..height {
            let out = &mut self.lines[row * self.stride..][..width * SIZE];
            let offset = (first + row * row_stride) * from.size();
            if together {
                convert(from, &self.raw[row * line..][..line], transform, to, out);
            } else if from == to && transform.is_none() {
                tensor.read_stored(offset, out)?;
            } else {
                tensor.read_stored(offset, &mut self.raw)?;
                convert(from, &self.raw, transform, to, out);
            }
        }
        Ok(())
    }

    /// Writes the lines to `out`, where steps between and within lines have these strides in
    /// elements. One of these is 1.
    fn write(
        &self,
        out: &mut [u8],
        [height, width]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) {
        if column_stride == 1 {
            for row in 0..height {
                let line = &self.lines[row * self.stride..][..width * SIZE];
                out[row * row_stride * SIZE..][..line.len()].copy_from_slice(line);
            }
            return;
        }
        for column in 0..width {
            let out = &mut out[column * column_stride * SIZE..][..height * SIZE];
            for (row, element) in out.as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
                let at = row * self.stride + column * SIZE;
                element.copy_from_slice(&self.lines[at..at + SIZE]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::checkpoint::layout::c_order;

    /// A float32 tensor of this shape whose elements are their own positions.
    fn counting(shape: &[usize]) -> Tensor {
        let len = shape.iter().product::<usize>();
        let header = format!(
            r#"{{"x": {{"dtype": "F32", "shape": {shape:?}, "data_offsets": [0, {}]}}}}"#,
            len * 4
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend((0..len).flat_map(|place| (place as f32).to_le_bytes()));
        let checkpoint = Checkpoint::from_safetensors(Path::new("counting"), file).unwrap();
        checkpoint.get("x").unwrap().clone()
    }

    /// A view of the axes of `shape` in this order, all of them one dimension.
    fn reordered(shape: &[usize], order: &[usize]) -> Tensor {
        let axes: Vec<Axis> = c_order(shape).collect();
        let tensor = counting(shape);
        let layout = Layout {
            offset: 0,
            dimensions: vec![order.iter().map(|&axis| axes[axis]).collect()],
        };
        tensor.viewed("x".into(), layout)
    }

    /// The stored places of the elements of such a view, in its order.
    fn places(shape: &[usize], order: &[usize]) -> Vec<f32> {
        let axes: Vec<Axis> = c_order(shape).collect();
        let len = shape.iter().product::<usize>();
        let place = |mut index: usize| {
            let mut place = 0;
            for &axis in order.iter().rev() {
                place += index % axes[axis].size * axes[axis].stride;
                index /= axes[axis].size;
            }
            place as f32
        };
        (0..len).map(place).collect()
    }

    fn read(tensor: &Tensor) -> Vec<f32> {
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_into(DType::F32, &mut bytes).unwrap();
        let (elements, _) = bytes.as_chunks();
        elements.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    /// Shapes that exceed one block in each direction by a little, and one task.
    const CASES: [(&[usize], &[usize]); 9] = [
        (&[70, 4100], &[1, 0]),
        (&[4100, 70], &[1, 0]),
        (&[3, 150, 700], &[1, 0, 2]),
        (&[3, 150, 700], &[0, 2, 1]),
        (&[3, 150, 700], &[2, 1, 0]),
        (&[5, 2, 65, 129], &[2, 0, 3, 1]),
        (&[5, 2, 65, 129], &[3, 2, 0, 1]),
        (&[600_000], &[0]),
        (&[1, 2049, 1, 65], &[3, 2, 1, 0]),
    ];

    #[test]
    fn axes_in_any_order_are_read_as_their_elements() {
        for (shape, order) in CASES {
            let found = read(&reordered(shape, order));
            assert!(found == places(shape, order), "{shape:?} as {order:?}");
        }
    }

    #[test]
    fn slabs_together_are_the_tensor() {
        for (shape, order) in CASES {
            let tensor = reordered(shape, order);
            for elements in [1_000, 100_000, usize::MAX] {
                let slabs: Vec<Tensor> = tensor.slabs(elements).collect();
                let found: Vec<f32> = slabs.iter().flat_map(read).collect();
                assert!(found == places(shape, order), "{shape:?} as {order:?}");
            }
        }
        assert_eq!(
            counting(&[4, 0])
                .slabs(10)
                .map(|slab| slab.byte_len())
                .sum::<usize>(),
            0
        );
        assert_eq!(counting(&[]).slabs(10).count(), 1);
    }

    #[test]
    fn a_single_column_is_read_although_none_of_its_elements_lie_together() {
        let column = counting(&[300, 7]).slice(1, 3..4).unwrap();
        let expected: Vec<f32> = (0..300).map(|row| (row * 7 + 3) as f32).collect();
        assert_eq!(read(&column), expected);
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let tensor = counting(&[3, 4]);
        for (dtype, len) in [(DType::F32, 47), (DType::BF16, 48), (DType::F32, 0)] {
            assert!(tensor.read_into(dtype, &mut vec![0; len]).is_err());
        }
    }
}
