//! How a tensor's elements lie among the stored ones: an offset, and axes that each have a size and
//! a stride.
//!
//! A dimension may consist of several axes. A query projection that is stored per head as [N, D, H]
//! is the matrix [D, N·H] that has a second dimension of two axes, without a copy.

use std::ops::Range;

/// One axis: how many steps there are, and how many stored elements each step passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) size: usize,
    pub(super) stride: usize,
}

/// A view of stored elements.
///
/// The maker guarantees that it stays within them: its axes are some of those of the stored shape,
/// in any order, so that no product or sum of its numbers overflows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The first element's position among the stored ones.
    pub(super) offset: usize,
    /// The axes of each dimension, outermost first.
    pub(super) dimensions: Vec<Vec<Axis>>,
}

impl Layout {
    /// The elements of an array of this shape in C order, all of them.
    pub(super) fn stored(shape: &[usize]) -> Self {
        let dimensions = c_order(shape).map(|axis| vec![axis]).collect();
        Layout {
            offset: 0,
            dimensions,
        }
    }

    /// The dimensions.
    pub(super) fn shape(&self) -> Vec<usize> {
        let size = |axes: &Vec<Axis>| axes.iter().map(|axis| axis.size).product();
        self.dimensions.iter().map(size).collect()
    }

    /// The same elements with the dimensions in reverse order.
    pub(super) fn transposed(mut self) -> Self {
        self.dimensions.reverse();
        self
    }

    /// The elements with these indices of one dimension. None where there are no such indices, or
    /// where the dimension has several axes and the cut falls within a step of its outermost.
    pub(super) fn sliced(mut self, dim: usize, range: &Range<usize>) -> Option<Self> {
        let axes = self.dimensions.get_mut(dim)?;
        let (outer, inner) = axes.split_first_mut()?;
        let step = inner.iter().map(|axis| axis.size).product::<usize>();
        let within = range.start <= range.end && range.end <= outer.size * step;
        let aligned =
            step > 0 && range.start.is_multiple_of(step) && range.end.is_multiple_of(step);
        if !within || !aligned {
            return None;
        }
        outer.size = (range.end - range.start) / step;
        if outer.size > 0 {
            self.offset += range.start / step * outer.stride;
        }
        Some(self)
    }

    /// As few axes as enumerate the elements in order: none of size 1, and no two that are one.
    pub(super) fn axes(&self) -> Vec<Axis> {
        let mut merged: Vec<Axis> = Vec::new();
        for &axis in self.dimensions.iter().flatten() {
            match merged.last_mut() {
                _ if axis.size == 1 => {}
                Some(outer) if outer.stride == axis.size * axis.stride => {
                    outer.size *= axis.size;
                    outer.stride = axis.stride;
                }
                _ => merged.push(axis),
            }
        }
        merged
    }
}

/// The axes of an array of this shape whose elements follow each other in C order.
pub(super) fn c_order(shape: &[usize]) -> impl ExactSizeIterator<Item = Axis> {
    let mut stride: usize = shape.iter().product();
    shape.iter().map(move |&size| {
        stride = stride.checked_div(size).unwrap_or(0);
        Axis { size, stride }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_order_is_one_axis() {
        assert_eq!(
            Layout::stored(&[3, 1, 4, 5]).axes(),
            [Axis {
                size: 60,
                stride: 1
            }]
        );
        assert_eq!(Layout::stored(&[]).axes(), []);
    }

    #[test]
    fn a_part_of_a_dimension_begins_later_and_a_cut_through_a_head_is_refused() {
        let part = Layout::stored(&[3, 4]).sliced(1, &(1..3)).expect("a part");
        assert_eq!((part.offset, part.shape()), (1, vec![3, 2]));
        let empty = Layout::stored(&[3, 4])
            .sliced(0, &(3..3))
            .expect("an empty part");
        assert_eq!((empty.offset, empty.shape()), (0, vec![0, 4]));
        assert_eq!(Layout::stored(&[3, 4]).sliced(1, &(2..5)), None);
        assert_eq!(Layout::stored(&[3, 4]).sliced(2, &(0..1)), None);
        // Three heads of four, as one dimension.
        let heads = Layout {
            offset: 0,
            dimensions: vec![c_order(&[3, 4]).collect()],
        };
        let part = heads.clone().sliced(0, &(4..12)).expect("two heads");
        assert_eq!((part.offset, part.shape()), (4, vec![8]));
        assert_eq!(heads.sliced(0, &(2..6)), None);
    }

    #[test]
    fn a_transposed_matrix_has_two_axes_and_a_transposed_row_has_one() {
        let axes = Layout::stored(&[3, 4]).transposed().axes();
        let expected = [Axis { size: 4, stride: 1 }, Axis { size: 3, stride: 4 }];
        assert_eq!(axes, expected);
        assert_eq!(
            Layout::stored(&[1, 4]).transposed().axes(),
            [Axis { size: 4, stride: 1 }]
        );
    }
}
