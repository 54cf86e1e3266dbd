//! The notation of axes by letter, as [`StoredAs`](crate::naming::StoredAs) explains it.

use crate::checkpoint::layout::{Axis, Layout};

/// The axes of a stored tensor by letter, if its shape is one that `notation` allows.
pub(super) struct Axes {
    /// Each may be several axes of the stored array: a view of one can be what is read here.
    letters: Vec<(char, Vec<Axis>)>,
    offset: usize,
    /// The stride of the leading axis where the notation numbers one: part p begins p strides in.
    parts: Option<usize>,
}

impl Axes {
    /// Reads `2 k d h` against the dimensions of a tensor; `e (2 f) d` has a dimension that runs over
    /// two axes. `width` is the size that d must have, where it is known.
    pub(super) fn fit(notation: &str, stored: &Layout, width: Option<usize>) -> Option<Self> {
        let mut found = Axes {
            letters: Vec::new(),
            offset: stored.offset,
            parts: None,
        };
        let mut dimensions = stored.dimensions.iter();
        let mut symbols = notation.chars().filter(|c| *c != ' ');
        while let Some(symbol) = symbols.next() {
            let axes = dimensions.next()?;
            if symbol != '(' {
                found.add(symbol, axes, width)?;
                continue;
            }
            let (digit, letter) = (symbols.next()?, symbols.next()?);
            let outer = digit.to_digit(10)? as usize;
            let [axis] = axes.as_slice() else {
                return None;
            };
            if symbols.next() != Some(')') || outer == 0 || !axis.size.is_multiple_of(outer) {
                return None;
            }
            let inner = axis.size / outer;
            let outer = Axis {
                size: outer,
                stride: axis.stride * inner,
            };
            let inner = Axis {
                size: inner,
                ..*axis
            };
            found.add(digit, &[outer], width)?;
            found.add(letter, &[inner], width)?;
        }
        dimensions.next().is_none().then_some(found)
    }

    fn add(&mut self, symbol: char, axes: &[Axis], width: Option<usize>) -> Option<()> {
        let size: usize = axes.iter().map(|axis| axis.size).product();
        match (symbol.to_digit(10), axes) {
            (Some(count), [axis]) if size == count as usize => self.parts = Some(axis.stride),
            (Some(_), _) => return None,
            (None, _) if symbol == 'd' && width.is_some_and(|width| width != size) => return None,
            (None, axes) => self.letters.push((symbol, axes.to_vec())),
        }
        Some(())
    }

    /// The view that `notation`, such as `d (k h)`, asks for, of the part with this number.
    pub(super) fn arrange(&self, notation: &str, part: usize) -> Layout {
        let mut dimensions: Vec<Vec<Axis>> = Vec::new();
        let mut grouped = false;
        for symbol in notation.chars() {
            match symbol {
                '(' => {
                    dimensions.push(Vec::new());
                    grouped = true;
                }
                ')' => grouped = false,
                _ => {
                    let Some((_, axes)) = self.letters.iter().find(|(name, _)| *name == symbol)
                    else {
                        continue;
                    };
                    match dimensions.last_mut() {
                        Some(group) if grouped => group.extend(axes),
                        _ => dimensions.push(axes.clone()),
                    }
                }
            }
        }
        Layout {
            // A numbered axis is at least as long as there are parts.
            offset: self.offset + self.parts.map_or(0, |stride| stride * part),
            dimensions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_within_a_dimension_are_two_axes() {
        let axes = Axes::fit("2 k d h", &Layout::stored(&[2, 3, 5, 7]), Some(5)).unwrap();
        let layout = axes.arrange("d (k h)", 1);
        assert_eq!((layout.offset, layout.shape()), (105, vec![5, 21]));
        let strides: Vec<usize> = layout.axes().iter().map(|axis| axis.stride).collect();
        assert_eq!(strides, [7, 35, 1]);
    }

    #[test]
    fn a_dimension_may_run_over_parts_and_within_them() {
        let axes = Axes::fit("e (2 f) d", &Layout::stored(&[3, 14, 5]), Some(5)).unwrap();
        let layout = axes.arrange("d e f", 1);
        assert_eq!((layout.offset, layout.shape()), (35, vec![5, 3, 7]));
        let strides: Vec<usize> = layout.axes().iter().map(|axis| axis.stride).collect();
        assert_eq!(strides, [1, 70, 5]);
        assert!(Axes::fit("e (2 f) d", &Layout::stored(&[3, 13, 5]), Some(5)).is_none());
    }

    #[test]
    fn another_rank_count_or_width_does_not_fit() {
        for shape in [&[2, 3, 5][..], &[3, 3, 5, 7], &[2, 3, 6, 7]] {
            let stored = Layout::stored(shape);
            assert!(
                Axes::fit("2 k d h", &stored, Some(5)).is_none(),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn a_group_that_merges_is_one_axis() {
        let axes = Axes::fit("n h d", &Layout::stored(&[3, 5, 7]), None).unwrap();
        let layout = axes.arrange("(n h) d", 0);
        assert_eq!(layout.shape(), [15, 7]);
        assert_eq!(layout.axes().len(), 1);
    }

    #[test]
    fn a_view_of_a_stored_array_keeps_its_place_and_order() {
        let slice = Layout::stored(&[4, 2, 3]).sliced(0, &(1..2)).unwrap();
        let mut slice = slice.transposed();
        slice.dimensions.pop();
        let layout = Axes::fit("d 2", &slice, None).unwrap().arrange("d", 1);
        assert_eq!((layout.offset, layout.shape()), (6 + 3, vec![3]));
    }
}
