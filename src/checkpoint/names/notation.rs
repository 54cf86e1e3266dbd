//! The notation of axes by letter, as [`StoredAs`](crate::naming::StoredAs) explains it.

use crate::checkpoint::layout::{Axis, Layout, c_order};

/// The axes of a stored tensor by letter, if its shape is one that `notation` allows.
pub(super) struct Axes {
    letters: Vec<(char, Axis)>,
    /// The stride of the leading axis where the notation numbers one: part p begins p strides in.
    parts: Option<usize>,
}

impl Axes {
    /// Reads `2 k d h` against a shape; `e (2 f) d` has a dimension that runs over two axes.
    /// `width` is the size that d must have, where it is known.
    pub(super) fn fit(notation: &str, shape: &[usize], width: Option<usize>) -> Option<Self> {
        let mut axes = Self {
            letters: Vec::new(),
            parts: None,
        };
        let mut dimensions = c_order(shape);
        let mut symbols = notation.chars().filter(|c| *c != ' ');
        while let Some(symbol) = symbols.next() {
            let axis = dimensions.next()?;
            if symbol != '(' {
                axes.add(symbol, axis, width)?;
                continue;
            }
            let (digit, letter) = (symbols.next()?, symbols.next()?);
            let outer = digit.to_digit(10)? as usize;
            if symbols.next() != Some(')') || outer == 0 || !axis.size.is_multiple_of(outer) {
                return None;
            }
            let inner = axis.size / outer;
            let stride = axis.stride * inner;
            axes.add(
                digit,
                Axis {
                    size: outer,
                    stride,
                },
                width,
            )?;
            axes.add(
                letter,
                Axis {
                    size: inner,
                    ..axis
                },
                width,
            )?;
        }
        dimensions.next().is_none().then_some(axes)
    }

    fn add(&mut self, symbol: char, axis: Axis, width: Option<usize>) -> Option<()> {
        match symbol.to_digit(10) {
            Some(count) if axis.size != count as usize => return None,
            Some(_) => self.parts = Some(axis.stride),
            None if symbol == 'd' && width.is_some_and(|width| width != axis.size) => return None,
            None => self.letters.push((symbol, axis)),
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
                    let Some((_, axis)) = self.letters.iter().find(|(name, _)| *name == symbol)
                    else {
                        continue;
                    };
                    match dimensions.last_mut() {
                        Some(group) if grouped => group.push(*axis),
                        _ => dimensions.push(vec![*axis]),
                    }
                }
            }
        }
        Layout {
            // A numbered axis is at least as long as there are parts.
            offset: self.parts.map_or(0, |stride| stride * part),
            dimensions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_within_a_dimension_are_two_axes() {
        let axes = Axes::fit("2 k d h", &[2, 3, 5, 7], Some(5)).unwrap();
        let layout = axes.arrange("d (k h)", 1);
        assert_eq!((layout.offset, layout.shape()), (105, vec![5, 21]));
        let strides: Vec<usize> = layout.axes().iter().map(|axis| axis.stride).collect();
        assert_eq!(strides, [7, 35, 1]);
    }

    #[test]
    fn a_dimension_may_run_over_parts_and_within_them() {
        let axes = Axes::fit("e (2 f) d", &[3, 14, 5], Some(5)).unwrap();
        let layout = axes.arrange("d e f", 1);
        assert_eq!((layout.offset, layout.shape()), (35, vec![5, 3, 7]));
        let strides: Vec<usize> = layout.axes().iter().map(|axis| axis.stride).collect();
        assert_eq!(strides, [1, 70, 5]);
        assert!(Axes::fit("e (2 f) d", &[3, 13, 5], Some(5)).is_none());
    }

    #[test]
    fn another_rank_count_or_width_does_not_fit() {
        for shape in [&[2, 3, 5][..], &[3, 3, 5, 7], &[2, 3, 6, 7]] {
            assert!(Axes::fit("2 k d h", shape, Some(5)).is_none(), "{shape:?}");
        }
    }

    #[test]
    fn a_group_that_merges_is_one_axis() {
        let axes = Axes::fit("n h d", &[3, 5, 7], None).unwrap();
        let layout = axes.arrange("(n h) d", 0);
        assert_eq!(layout.shape(), [15, 7]);
        assert_eq!(layout.axes().len(), 1);
    }
}
