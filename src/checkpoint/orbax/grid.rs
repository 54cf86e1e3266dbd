//! How an array is divided into chunks, and how a chunk's elements are placed in the array.

use crate::checkpoint::layout::{Axis, c_order};

/// A regular grid. A chunk has its full size even at the array's edge, beyond which its elements
/// mean nothing.
pub(super) struct Grid<'a> {
    shape: &'a [usize],
    chunk: &'a [usize],
    /// How many elements of the array, and of a chunk, a step along each dimension passes.
    strides: Vec<usize>,
    chunk_strides: Vec<usize>,
}

/// Elements that are contiguous both in a chunk and in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The place of the first in the chunk.
    pub(super) at: usize,
    /// Its place in the array.
    pub(super) place: usize,
    pub(super) len: usize,
}

impl<'a> Grid<'a> {
    pub(super) fn new(shape: &'a [usize], chunk: &'a [usize]) -> Self {
        let strides = |shape: &[usize]| c_order(shape).map(|axis| axis.stride).collect();
        Grid {
            shape,
            chunk,
            strides: strides(shape),
            chunk_strides: strides(chunk),
        }
    }

    pub(super) fn chunk_elements(&self) -> usize {
        self.chunk.iter().product()
    }

    /// A chunk's number among all, in C order.
    pub(super) fn number(&self, chunk: &[usize]) -> usize {
        let counts = self
            .shape
            .iter()
            .zip(self.chunk)
            .map(|(s, c)| s.div_ceil(*c));
        let digits = chunk.iter().zip(counts);
        digits.fold(0_usize, |number, (at, count)| {
            number.wrapping_mul(count).wrapping_add(*at)
        })
    }

    /// The chunks within any of these boxes, each the first and the last chunk along every
    /// dimension.
    pub(super) fn chunks(
        &self,
        boxes: Vec<Vec<[usize; 2]>>,
    ) -> impl Iterator<Item = Vec<usize>> + use<> {
        let around = |axis: usize| {
            let ends = boxes.iter().map(|chunks| chunks[axis]);
            ends.reduce(|a: [usize; 2], b| [a[0].min(b[0]), a[1].max(b[1])])
        };
        let whole: Vec<[usize; 2]> = (0..self.shape.len()).filter_map(around).collect();
        let corner: Vec<usize> = whole.iter().map(|[first, _]| *first).collect();
        let mut next = (!boxes.is_empty()).then_some(corner);
        std::iter::from_fn(move || {
            let found = next.take()?;
            let mut after = found.clone();
            for (at, [first, last]) in after.iter_mut().zip(&whole).rev() {
                if *at < *last {
                    *at += 1;
                    next = Some(after);
                    break;
                }
                *at = *first;
            }
            Some(found)
        })
        .filter(move |chunk| {
            boxes.iter().any(|chunks| {
                let mut ends = chunk.iter().zip(chunks);
                ends.all(|(at, [first, last])| (first..=last).contains(&at))
            })
        })
    }

    /// The box of all chunks; none where the array has no elements.
    pub(super) fn all(&self) -> Option<Vec<[usize; 2]>> {
        let axes = self.shape.iter().zip(self.chunk);
        axes.map(|(size, chunk)| Some([0, size.checked_sub(1)? / chunk]))
            .collect()
    }

    /// The smallest box of chunks that has the elements that these axes, none of size 0, enumerate
    /// from place `first` on.
    pub(super) fn covered(&self, first: usize, axes: &[Axis]) -> Vec<[usize; 2]> {
        let mut ends: Vec<[usize; 2]> = self.coordinates(first).map(|at| [at; 2]).collect();
        let mut last = first;
        // Each axis is a part of one dimension, or the view is no box.
        let mut is_box = true;
        for axis in axes {
            last += (axis.size - 1) * axis.stride;
            let dimension = self
                .strides
                .iter()
                .position(|stride| *stride <= axis.stride);
            if let Some(dimension) = dimension {
                let end = &mut ends[dimension][1];
                *end += (axis.size - 1) * (axis.stride / self.strides[dimension]);
                is_box &= axis.stride.is_multiple_of(self.strides[dimension])
                    && *end < self.shape[dimension];
            }
        }
        if !is_box {
            let mut apart = false;
            let coordinates = self.coordinates(first).zip(self.coordinates(last));
            ends = coordinates
                .zip(self.shape)
                .map(|((first, last), size)| {
                    let ends = if apart { [0, size - 1] } else { [first, last] };
                    apart |= first != last;
                    ends
                })
                .collect();
        }
        let chunks = ends.into_iter().zip(self.chunk);
        chunks
            .map(|(ends, chunk)| ends.map(|at| at / chunk))
            .collect()
    }

    /// The indices of the element at this place.
    fn coordinates(&self, mut place: usize) -> impl Iterator<Item = usize> {
        self.strides.iter().map(move |stride| {
            let at = place / stride;
            place %= stride;
            at
        })
    }

    /// The runs of a chunk, in order. Elements beyond the array's edge are in none.
    pub(super) fn runs(&self, chunk: &[usize]) -> impl Iterator<Item = Run> {
        let rank = self.shape.len();
        let from: Vec<usize> = chunk
            .iter()
            .zip(self.chunk)
            .map(|(at, size)| at * size)
            .collect();
        let sizes: Vec<usize> = (0..rank)
            .map(|axis| self.chunk[axis].min(self.shape[axis].saturating_sub(from[axis])))
            .collect();
        // The dimensions within a run: the innermost, and those around it where the chunk has the
        // ones within whole.
        let mut inner = rank.saturating_sub(1);
        while inner > 0 && self.chunk[inner] == self.shape[inner] {
            inner -= 1;
        }
        let len: usize = sizes.iter().skip(inner).product();
        let corner: usize = from
            .iter()
            .zip(&self.strides)
            .map(|(at, stride)| at * stride)
            .sum();
        let count: usize = sizes.iter().take(inner).product();
        let outer: Vec<(usize, usize, usize)> = (0..inner)
            .map(|axis| (sizes[axis], self.strides[axis], self.chunk_strides[axis]))
            .collect();
        (0..count).map(move |number| {
            let mut rest = number;
            let (mut at, mut place) = (0, corner);
            for (size, stride, chunk_stride) in outer.iter().rev() {
                at += rest % size * chunk_stride;
                place += rest % size * stride;
                rest /= size;
            }
            Run { at, place, len }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_at_the_edge_has_runs_of_the_elements_that_are_there() {
        let grid = Grid::new(&[3, 5], &[2, 3]);
        let runs = |chunk: &[usize]| -> Vec<(usize, usize, usize)> {
            let runs = grid.runs(chunk);
            runs.map(|run| (run.at, run.place, run.len)).collect()
        };
        assert_eq!(runs(&[0, 0]), [(0, 0, 3), (3, 5, 3)]);
        assert_eq!(runs(&[0, 1]), [(0, 3, 2), (3, 8, 2)]);
        assert_eq!(runs(&[1, 1]), [(0, 13, 2)]);
    }

    #[test]
    fn dimensions_that_a_chunk_has_whole_are_within_its_runs() {
        let grid = Grid::new(&[4, 2, 3], &[2, 2, 3]);
        let runs: Vec<Run> = grid.runs(&[1, 0, 0]).collect();
        let expected = Run {
            at: 0,
            place: 12,
            len: 12,
        };
        assert_eq!(runs, [expected]);
        let scalar: Vec<Run> = Grid::new(&[], &[]).runs(&[]).collect();
        let expected = Run {
            at: 0,
            place: 0,
            len: 1,
        };
        assert_eq!(scalar, [expected]);
    }

    #[test]
    fn only_chunks_with_wanted_elements_are_read() {
        let grid = Grid::new(&[4, 6], &[2, 2]);
        let axis = |size, stride| Axis { size, stride };
        let chunks = |boxes| grid.chunks(boxes).collect::<Vec<_>>();
        // Rows 1 and 2 of columns 2 and 3.
        let part = grid.covered(8, &[axis(2, 6), axis(2, 1)]);
        assert_eq!(chunks(vec![part]), [[0, 1], [1, 1]]);
        // The first and the last element, each by itself.
        let corners = vec![grid.covered(0, &[]), grid.covered(23, &[])];
        assert_eq!(chunks(corners), [[0, 0], [1, 2]]);
        // From the last column of row 0 to the first of row 1.
        let across = grid.covered(5, &[axis(2, 1)]);
        assert_eq!(chunks(vec![across]), [[0, 0], [0, 1], [0, 2]]);
        assert_eq!(chunks(grid.all().into_iter().collect()).len(), 6);
        assert_eq!(chunks(Vec::new()).len(), 0);
        assert_eq!(Grid::new(&[], &[]).chunks(vec![Vec::new()]).count(), 1);
        assert_eq!(Grid::new(&[3, 0], &[2, 2]).all(), None);
    }
}
