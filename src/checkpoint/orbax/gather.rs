//! Puts stored elements, as they arrive, where a view needs them.
//!
//! A chunk yields its elements in the stored order, once. A view needs some of them, in another
//! order perhaps, and cast.

use std::ops::Range;

use crate::checkpoint::layout::{Axis, Layout, c_order};
use crate::checkpoint::transform::{Transform, convert};
use crate::dtype::DType;

/// Lines that are transposed at once: 64 two-byte elements are two cache lines.
const BLOCK_ROWS: usize = 64;
/// The most bytes of them.
const BLOCK_BYTES: usize = 1 << 22;

/// Memory that is to hold the elements of a view.
pub(in crate::checkpoint) struct Target<'a> {
    /// The place among the stored elements of the first that is needed.
    first: usize,
    /// All axes but the innermost, in the stored order.
    outer: Vec<Step>,
    /// How many stored elements are contiguous, and what each of them passes in what
    /// is written.
    run: usize,
    run_write: usize,
    from: DType,
    to: DType,
    transform: Option<Transform>,
    /// The place in the view of the first element of `out`.
    window: usize,
    out: &'a mut [u8],
    lines: Lines,
}

/// An axis, with the elements that each of its steps passes in what is written.
#[derive(Clone, Copy)]
struct Step {
    read: Axis,
    write: usize,
}

/// Elements that are contiguous as stored and apart in what is written, on their way.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The place in the view of the first line's first element. Each line begins at the place after
    /// the one before.
    first: usize,
    width: usize,
    count: usize,
}

impl Lines {
    /// Bytes from one line to the next. What is added keeps the lines out of each other's cache
    /// sets where their width is a power of two.
    fn stride(&self, size: usize) -> usize {
        self.width * size + 64
    }
}

impl<'a> Target<'a> {
    /// Memory for the elements of `layout` from `window` on, as many as `out` has room for.
    pub(in crate::checkpoint) fn new(
        layout: &Layout,
        window: usize,
        dtypes: [DType; 2],
        transform: Option<Transform>,
        out: &'a mut [u8],
    ) -> Self {
        let [from, to] = dtypes;
        let wanted = window..window + out.len() / to.size();
        let (first, axes, window) = narrowed(layout, wanted);
        let sizes: Vec<usize> = axes.iter().map(|axis| axis.size).collect();
        let mut outer: Vec<Step> = axes
            .iter()
            .zip(c_order(&sizes))
            .map(|(&read, write)| Step {
                read,
                write: write.stride,
            })
            .collect();
        outer.sort_by_key(|step| std::cmp::Reverse(step.read.stride));
        let innermost = outer.pop_if(|step| step.read.stride == 1);
        Target {
            first,
            run: innermost.map_or(1, |step| step.read.size),
            run_write: innermost.map_or(1, |step| step.write),
            outer,
            from,
            to,
            transform,
            window,
            out,
            lines: Lines::default(),
        }
    }

    /// The place of the first stored element that is needed, and the axes that enumerate all;
    /// nothing where none are.
    pub(super) fn extent(&self) -> Option<(usize, Vec<Axis>)> {
        if self.out.is_empty() {
            return None;
        }
        let mut axes: Vec<Axis> = self.outer.iter().map(|step| step.read).collect();
        axes.push(Axis {
            size: self.run,
            stride: 1,
        });
        let empty = axes.iter().any(|axis| axis.size == 0);
        (!empty).then_some((self.first, axes))
    }

    /// The next stored elements from `place` on that are needed and contiguous.
    pub(super) fn next(&self, place: usize) -> Option<Range<usize>> {
        let start = self.start(&self.seek(place)?);
        Some(start.max(place)..start + self.run)
    }

    /// Where to divide the stored elements from `place` on, at `end` or before, such that no line
    /// is cut that could be whole.
    pub(super) fn cut(&self, place: usize, end: usize) -> usize {
        match self.seek(end).map(|index| self.start(&index)) {
            Some(start) if self.run_write != 1 && start > place && start < end => start,
            _ => end,
        }
    }

    /// The memory that is to hold the stored elements from `place` on just as they are, for as many
    /// of the `len` as it can.
    pub(super) fn direct(&mut self, place: usize, len: usize) -> Option<&mut [u8]> {
        if self.from != self.to || self.transform.is_some() || self.run_write != 1 {
            return None;
        }
        let index = self.seek(place)?;
        let within = place.checked_sub(self.start(&index))?;
        let at = (self.written(&index) + within).checked_sub(self.window)?;
        let room = (self.out.len() / self.to.size()).checked_sub(at)?;
        let len = len.min(self.run - within).min(room);
        let size = self.to.size();
        self.out.get_mut(at * size..(at + len) * size)
    }

    /// Takes the stored elements from `place` on. Those that are not needed are skipped.
    pub(super) fn take(&mut self, place: usize, bytes: &[u8]) {
        let size = self.from.size();
        let end = place + bytes.len() / size;
        let Some(mut index) = self.seek(place) else {
            return;
        };
        loop {
            let start = self.start(&index);
            if start >= end {
                return;
            }
            let (from, to) = (start.max(place), (start + self.run).min(end));
            if let Some(bytes) = bytes.get((from - place) * size..(to - place) * size) {
                self.line(
                    self.written(&index) + (from - start) * self.run_write,
                    bytes,
                );
            }
            let axes = self.outer.len();
            if !self.advance(&mut index, axes) {
                return;
            }
        }
    }

    /// Writes what has been taken and not written.
    pub(super) fn flush(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let size = self.to.size();
        let line = lines.stride(size);
        for column in 0..lines.width {
            let first = lines.first + column * self.run_write;
            // The rows of this column that the window has.
            let begin = self.window.saturating_sub(first).min(lines.count);
            let end = (self.window + self.out.len() / size)
                .saturating_sub(first)
                .min(lines.count);
            if begin >= end {
                continue;
            }
            let at = (first + begin - self.window) * size;
            let Some(out) = self.out.get_mut(at..at + (end - begin) * size) else {
                continue;
            };
            let from = begin * line + column * size;
            match size {
                2 => transpose::<2>(&lines.bytes, from, line, out),
                _ => transpose::<4>(&lines.bytes, from, line, out),
            }
        }
        // The memory is used again.
        self.lines.bytes = lines.bytes;
        self.lines.bytes.clear();
    }

    /// Takes contiguous elements, the first of which belongs at place `at` of the view.
    fn line(&mut self, at: usize, bytes: &[u8]) {
        let (from, to) = (self.from.size(), self.to.size());
        let count = bytes.len() / from;
        if self.run_write == 1 || count == 1 {
            let wanted = self.window..self.window + self.out.len() / to;
            let (begin, end) = (at.max(wanted.start), (at + count).min(wanted.end));
            if begin < end {
                let bytes = &bytes[(begin - at) * from..(end - at) * from];
                let out = &mut self.out[(begin - wanted.start) * to..(end - wanted.start) * to];
                convert(self.from, bytes, self.transform, self.to, out);
            }
            return;
        }
        let lines = &self.lines;
        let follows = lines.count > 0
            && lines.width == count
            && lines.first + lines.count == at
            && lines.count < BLOCK_ROWS
            && lines.bytes.len() < BLOCK_BYTES;
        if !follows {
            self.flush();
            self.lines.first = at;
            self.lines.width = count;
        }
        let lines = &mut self.lines;
        let before = lines.bytes.len();
        lines.bytes.resize(before + lines.stride(to), 0);
        let out = &mut lines.bytes[before..before + count * to];
        convert(self.from, bytes, self.transform, self.to, out);
        lines.count += 1;
    }

    /// The steps along the outer axes to the first run that does not end before `place` or at it.
    fn seek(&self, place: usize) -> Option<Vec<usize>> {
        let mut distance = (place + 1).saturating_sub(self.first + self.run);
        let mut index = vec![0; self.outer.len()];
        for (axis, step) in self.outer.iter().enumerate() {
            let steps = distance / step.read.stride;
            if steps >= step.read.size {
                return self.advance(&mut index, axis).then_some(index);
            }
            index[axis] = steps;
            distance -= steps * step.read.stride;
        }
        let found = distance == 0 || self.advance(&mut index, self.outer.len());
        found.then_some(index)
    }

    /// Goes one step further along the first `axes` outer axes, and back to the beginning of the
    /// others.
    fn advance(&self, index: &mut [usize], axes: usize) -> bool {
        index[axes..].fill(0);
        for (at, step) in index[..axes].iter_mut().zip(&self.outer[..axes]).rev() {
            *at += 1;
            if *at < step.read.size {
                return true;
            }
            *at = 0;
        }
        false
    }

    fn start(&self, index: &[usize]) -> usize {
        let steps = index.iter().zip(&self.outer);
        self.first + steps.map(|(at, step)| at * step.read.stride).sum::<usize>()
    }

    fn written(&self, index: &[usize]) -> usize {
        let steps = index.iter().zip(&self.outer);
        steps.map(|(at, step)| at * step.write).sum()
    }
}

/// Copies the elements at `from` of each line of `line` bytes.
fn transpose<const SIZE: usize>(lines: &[u8], from: usize, line: usize, out: &mut [u8]) {
    for (row, element) in out.as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
        let at = from + row * line;
        element.copy_from_slice(&lines[at..at + SIZE]);
    }
}

/// The part of a view that has all of the elements in `wanted` and few others: its first element's
/// place, its axes, and where `wanted` begins in it.
fn narrowed(layout: &Layout, wanted: Range<usize>) -> (usize, Vec<Axis>, usize) {
    let mut axes = layout.axes();
    let (mut first, mut begin, mut end) = (layout.offset, wanted.start, wanted.end);
    if wanted.is_empty() {
        return (first, axes, begin);
    }
    let mut inner: usize = axes.iter().map(|axis| axis.size).product();
    for axis in &mut axes {
        inner /= axis.size.max(1);
        let (from, to) = (begin / inner, (end - 1) / inner);
        first += from * axis.stride;
        begin -= from * inner;
        end -= from * inner;
        axis.size = to - from + 1;
        if from < to {
            break;
        }
    }
    (first, axes, begin)
}
