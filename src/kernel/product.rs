//! The product: how it is split into chunks for threads, and a chunk into tiles.
//!
//! Few rows of activations are multiplied with many weights, so reading the weights from memory
//! limits the speed. Each weight is read from memory once for up to [`SLAB_ROWS`] rows: a thread
//! takes a chunk of some rows of weights and processes it in strips of the summed dimension, short
//! enough for the activations of a strip to stay in the first-level cache. Each sum is kept in as
//! many parts as a vector has lanes until the last strip is done. So it is taken in one order
//! however the product is split: a row's result has the same bits in any batch, and on any number
//! of threads.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::instruction_set::{Element, InstructionSet};
use super::pool::Pool;
use super::tile::{FINISHED, Line, MOST_ROWS, TILE_WIDTH, Tiles, Work};

/// Rows of activations that share a reading of the weights. The parts of their sums stay in the
/// second-level cache.
const SLAB_ROWS: usize = 64;
/// Bytes of packed activations in a strip: half of a first-level cache of the usual size.
const STRIP_BYTES: usize = 16 << 10;
/// Bytes of weights in a chunk, approximately: some microseconds of reading, so that distributing
/// it costs little.
const CHUNK_BYTES: usize = 64 << 10;
/// How many bytes ahead of their use weights are prefetched, approximately: what the memory
/// delivers in some microseconds.
const AHEAD_BYTES: usize = 64 << 10;
/// The number of elements of activations from which on all threads pack them.
const PACK_TOGETHER: usize = 1 << 15;

/// What a result can consist of: [`f32`], or [`half::bf16`] for rounded sums.
pub trait Output: Copy + Send + Sync {
    /// The value nearest to a sum.
    fn round(value: f32) -> Self;
}

impl Output for f32 {
    fn round(value: f32) -> f32 {
        value
    }
}

impl Output for bf16 {
    fn round(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
}

/// The sizes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductSizes {
    /// Rows of activations and of the result.
    pub rows: usize,
    /// The summed dimension.
    pub inputs: usize,
    /// Rows of weights, columns of the result.
    pub outputs: usize,
}

/// `y` [rows, outputs] = `x` [rows, inputs] · `w` [outputs, inputs]ᵀ, each sum in float32, then
/// rounded to `y`'s type. The slices have the lengths of the sizes.
///
/// # Panics
/// Where a slice has another length, or the CPU lacks the instructions.
pub(super) fn multiply<W: Element, Y: Output>(
    pool: &Pool,
    instructions: InstructionSet,
    sizes: ProductSizes,
    x: &[W],
    w: &[W],
    y: &mut [Y],
) {
    let ProductSizes {
        rows,
        inputs,
        outputs,
    } = sizes;
    assert!(
        instructions.is_available(),
        "this CPU has no {instructions}"
    );
    assert_eq!(Some(x.len()), rows.checked_mul(inputs), "length of x");
    assert_eq!(Some(w.len()), outputs.checked_mul(inputs), "length of w");
    assert_eq!(Some(y.len()), rows.checked_mul(outputs), "length of y");
    if y.is_empty() {
        return;
    }
    if inputs == 0 {
        y.fill(Y::round(0.0));
        return;
    }
    let tiles = W::tiles(instructions).0;
    let slabs = x
        .chunks(SLAB_ROWS.saturating_mul(inputs))
        .zip(y.chunks_mut(SLAB_ROWS.saturating_mul(outputs)));
    PACKED.with_borrow_mut(|packed| {
        for (x, y) in slabs {
            Slab::new(pool, tiles, inputs, x, packed).multiply(pool, w, y);
        }
    });
}

thread_local! {
    /// Packed activations, kept for the thread's next product.
    static PACKED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// Accumulators of the chunk that a thread works on.
    static ACCUMULATORS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Rows of activations that share a pass over the weights, packed in blocks of as many rows as a
/// tile takes.
struct Slab<'a, W: 'static> {
    tiles: &'static Tiles<W>,
    rows: usize,
    inputs: usize,
    /// Steps of the summed dimension.
    steps: usize,
    blocks: usize,
    packed: &'a [Line],
}

impl<'a, W: Element> Slab<'a, W> {
    fn new(
        pool: &Pool,
        tiles: &'static Tiles<W>,
        inputs: usize,
        x: &[W],
        packed: &'a mut Vec<Line>,
    ) -> Self {
        let rows = x.len() / inputs;
        let steps = inputs.div_ceil(tiles.step);
        let row_lines = steps * tiles.lines;
        if packed.len() < rows * row_lines {
            packed.resize(rows * row_lines, Line::ZERO);
        }
        let packed = &mut packed[..rows * row_lines];
        let blocks = rows.div_ceil(MOST_ROWS);
        let lines = Shared(packed.as_mut_ptr());
        let pack = |block: usize| {
            let range = block_rows(rows, blocks, block);
            // SAFETY: the blocks' rows are apart, and together they are the rows that `packed` was
            // made for.
            let to = unsafe {
                std::slice::from_raw_parts_mut(
                    lines.get().add(range.start * row_lines),
                    range.len() * row_lines,
                )
            };
            pack_block(
                tiles,
                &x[range.start * inputs..range.end * inputs],
                inputs,
                to,
            );
        };
        if x.len() < PACK_TOGETHER {
            (0..blocks).for_each(pack);
        } else {
            pool.run(blocks, &pack);
        }
        Slab {
            tiles,
            rows,
            inputs,
            steps,
            blocks,
            packed,
        }
    }

    /// `y` [rows, outputs] = these rows times `w` [outputs, inputs].
    fn multiply<Y: Output>(&self, pool: &Pool, w: &[W], y: &mut [Y]) {
        let outputs = w.len() / self.inputs;
        let chunk = self.chunk_rows();
        let y = Shared(y.as_mut_ptr());
        pool.run(outputs.div_ceil(chunk), &|index| {
            let range = index * chunk..((index + 1) * chunk).min(outputs);
            let weights = &w[range.start * self.inputs..range.end * self.inputs];
            ACCUMULATORS.with_borrow_mut(|accumulators| {
                let needed = self.rows * range.len();
                if accumulators.len() < needed {
                    accumulators.resize(needed, Line::ZERO);
                }
                let accumulators = &mut accumulators[..needed];
                self.accumulate(weights, accumulators);
                self.each_sum(accumulators, range.len(), |row, first, count, sums| {
                    let at = row * outputs + range.start + first;
                    // SAFETY: row < rows, and the sums are those of outputs in the range, so inside
                    // y; the chunks have different outputs, so no other thread writes there.
                    let to = unsafe { std::slice::from_raw_parts_mut(y.get().add(at), count) };
                    round(sums, to);
                });
            });
        });
    }

    /// Rows of weights in a chunk: a multiple of the number of sums that are finished together.
    fn chunk_rows(&self) -> usize {
        let rows = CHUNK_BYTES / (self.inputs * size_of::<W>());
        rows.clamp(1, 96).next_multiple_of(FINISHED)
    }

    /// Calls `each` for every sum: with a row, the first and the number of some outputs of a chunk,
    /// and the row's sums for them.
    fn each_sum(
        &self,
        accumulators: &[Line],
        outputs: usize,
        mut each: impl FnMut(usize, usize, usize, &[f32; FINISHED]),
    ) {
        for block in 0..self.blocks {
            let rows = block_rows(self.rows, self.blocks, block);
            let lines = &accumulators[rows.start * outputs..rows.end * outputs];
            for row in rows.clone() {
                for first in (0..outputs).step_by(FINISHED) {
                    let from = &lines[first * rows.len() + row - rows.start..];
                    // SAFETY: multiply has checked that the CPU has the instructions.
                    let sums = unsafe { (self.tiles.finish)(from, rows.len()) };
                    each(row, first, FINISHED.min(outputs - first), &sums);
                }
            }
        }
    }

    /// Computes the sums of all rows with the rows of `weights`, each in an accumulator: block by
    /// block, and within a block by rows of weights. The accumulators' previous contents do not
    /// matter.
    fn accumulate(&self, weights: &[W], accumulators: &mut [Line]) {
        let length = self.strip_steps();
        let strips = self.steps.div_ceil(length);
        // Strips whose weights are about AHEAD_BYTES.
        let ahead = AHEAD_BYTES
            .div_ceil(weights.len().div_ceil(strips) * size_of::<W>())
            .max(1);
        for strip in 0..strips {
            let steps = strip * length..((strip + 1) * length).min(self.steps);
            // The same offset that many strips ahead: in this chunk or a later one.
            let chunks = (strip + ahead) / strips;
            let to = chunks * weights.len() + (strip + ahead) % strips * length * self.tiles.step;
            let distance = to - strip * length * self.tiles.step;
            for block in 0..self.blocks {
                let rows = block_rows(self.rows, self.blocks, block);
                self.strip(weights, steps.clone(), rows, distance, accumulators);
            }
        }
    }

    /// Steps in a strip.
    fn strip_steps(&self) -> usize {
        let rows = self.rows.div_ceil(self.blocks);
        (STRIP_BYTES / size_of::<Line>() / self.tiles.lines / rows).max(1)
    }

    /// Adds the products of some steps of a block's rows and all of the chunk's weights.
    fn strip(
        &self,
        weights: &[W],
        steps: Range<usize>,
        rows: Range<usize>,
        ahead: usize,
        sums: &mut [Line],
    ) {
        let outputs = weights.len() / self.inputs;
        let start = steps.start * self.tiles.step;
        let end = (steps.end * self.tiles.step).min(self.inputs);
        let x = &self.packed[(rows.start * self.steps + steps.start * rows.len()) * self.tiles.lines
            ..(rows.start * self.steps + steps.end * rows.len()) * self.tiles.lines];
        let sums = &mut sums[rows.start * outputs..rows.end * outputs];
        let mut output = 0;
        while output < outputs {
            let (tile, taken) = if output + TILE_WIDTH <= outputs {
                (self.tiles.wide[rows.len() - 1], TILE_WIDTH)
            } else {
                (self.tiles.narrow[rows.len() - 1], 1)
            };
            let first = output * self.inputs + start;
            let work = Work {
                x: x.as_ptr(),
                w: weights[first..].as_ptr(),
                stride: self.inputs,
                len: end - start,
                fresh: start == 0,
                ahead: weights[first..].as_ptr().wrapping_add(ahead),
                sums: sums[output * rows.len()..(output + taken) * rows.len()].as_mut_ptr(),
            };
            // SAFETY: the slices taken above hold what the tile works on: rows.len() rows of packed
            // steps, `taken` rows of weights of which each has end - start elements from `start`
            // on, and a sum for each pair. multiply has checked that the CPU has the instructions.
            unsafe { tile(&work) };
            output += taken;
        }
    }
}

/// Rounds the first sums, as many as there is room for.
fn round<Y: Output>(sums: &[f32; FINISHED], to: &mut [Y]) {
    // Nearly always there is room for all, and copying a constant number takes no call.
    if let Ok(all) = <&mut [Y; FINISHED]>::try_from(&mut *to) {
        *all = sums.map(Y::round);
    } else {
        for (to, &sum) in to.iter_mut().zip(sums) {
            *to = Y::round(sum);
        }
    }
}

/// The rows of a block, when they are distributed evenly.
fn block_rows(rows: usize, blocks: usize, block: usize) -> Range<usize> {
    rows * block / blocks..rows * (block + 1) / blocks
}

/// Packs the rows of a block, interleaved by steps.
fn pack_block<W: Copy>(tiles: &Tiles<W>, x: &[W], inputs: usize, to: &mut [Line]) {
    let rows = x.len() / inputs;
    for (row, values) in x.chunks(inputs).enumerate() {
        let places = to.chunks_mut(tiles.lines).skip(row).step_by(rows);
        for (step, place) in values.chunks(tiles.step).zip(places) {
            (tiles.pack)(step, place);
        }
    }
}

/// A pointer that several threads write through, each to its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: only the pointer is shared; whoever writes through it states why nothing else writes
// there. T is what is sent to another thread.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}
