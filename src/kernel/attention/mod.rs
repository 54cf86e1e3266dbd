//! Attention of one new token a row over the cached keys and values.
//!
//! A decode step reads the filled part of the cache once. XLA:CPU widens the whole cache to float32
//! first, several times, filled or not; here each key and value is read as it is stored, and only
//! between the first slot that the mask shows and the row's own.
//!
//! The keys that a row sees are cut into chunks of a fixed length, counted from the first that it
//! sees; threads share the chunks. Sums are taken chunk by chunk in one order, so a row's result
//! has the same bits in any batch, with any padding, and on any number of threads.

mod call;
mod functions;
mod math;

use std::cell::RefCell;
use std::num::NonZero;
use std::ops::Range;

use half::bf16;

pub use call::ATTENTION;
pub(super) use call::AttentionCall;

use super::instruction_set::InstructionSet;
use super::pool::{Parts, Pool};
use math::{Exponentials, Mixed, Scores, with_instructions};

/// Keys in a chunk: some microseconds of work for a thread.
const CHUNK: usize = 256;

/// What queries, keys, values and results are stored as.
pub(super) trait Stored: Copy + Send + Sync + 'static {
    /// Whether the query is scaled, rather than the score: Flax scales queries, and in 16 bits a
    /// scale that is a power of two gives the same score to the bit either way.
    const SCALES_QUERY: bool;
    /// The value in float32.
    fn widen(self) -> f32;
    /// The nearest value that can be stored.
    fn nearest(value: f32) -> Self;
    /// That value in float32, for numbers (not NaN).
    fn rounded(value: f32) -> f32;
}

impl Stored for f32 {
    const SCALES_QUERY: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn nearest(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn rounded(value: f32) -> f32 {
        value
    }
}

impl Stored for bf16 {
    const SCALES_QUERY: bool = false;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn nearest(value: f32) -> bf16 {
        bf16::from_f32(value)
    }

    #[inline(always)]
    fn rounded(value: f32) -> f32 {
        // To nearest, ties to even, in arithmetic that becomes vector instructions.
        let bits = value.to_bits();
        let to_even = (bits >> 16) & 1;
        f32::from_bits(bits.wrapping_add(0x7fff + to_even) & 0xffff_0000)
    }
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttentionSizes {
    /// Rows of the batch.
    pub rows: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Query heads that share one of them.
    pub group: usize,
    /// Slots of the cache.
    pub cache: usize,
    /// Numbers in a head.
    pub head_dim: usize,
}

impl AttentionSizes {
    /// Elements of the queries, and of the result.
    pub fn queries(&self) -> usize {
        self.rows * self.kv_heads * self.group * self.head_dim
    }

    /// Elements of the keys, and of the values.
    pub fn keys(&self) -> usize {
        self.rows * self.kv_heads * self.cache * self.head_dim
    }

    /// Heads of keys and values in all rows.
    fn units(&self) -> usize {
        self.rows * self.kv_heads
    }
}

/// `result` [rows, kv_heads, group, head_dim] = softmax(queries · keysᵀ / √head_dim) · values, with
/// scores, softmax and sums in float32, the softmax rounded to `T`, and the sums too.
///
/// `queries` is [rows, kv_heads, group, head_dim]; `keys` and `values` are
/// [rows, kv_heads, cache, head_dim]; a row sees those slots up to its own whose `mask`
/// [rows, cache] is positive. A row that sees none gives zeros. [`Variant`] says where it changes
/// this.
///
/// # Panics
/// Where a slice does not have the length of the sizes, or the CPU lacks the instructions.
pub(super) fn attend<T: Stored>(
    pool: &Pool,
    instructions: InstructionSet,
    sizes: AttentionSizes,
    input: &Input<'_, T>,
    result: &mut [T],
) {
    assert!(
        instructions.is_available(),
        "this CPU has no {instructions}"
    );
    assert_eq!(input.queries.len(), sizes.queries(), "length of queries");
    assert_eq!(input.keys.len(), sizes.keys(), "length of keys");
    assert_eq!(input.values.len(), sizes.keys(), "length of values");
    assert_eq!(input.mask.len(), sizes.rows * sizes.cache, "length of mask");
    assert_eq!(input.slots.len(), sizes.rows, "length of slots");
    assert_eq!(result.len(), sizes.queries(), "length of the result");
    if result.is_empty() {
        return;
    }
    SCRATCH.with_borrow_mut(|scratch| {
        Attention::new(instructions, sizes, input).run(pool, scratch, result);
    });
}

/// What an attention is taken of.
pub(super) struct Input<'a, T> {
    pub queries: &'a [T],
    pub keys: &'a [T],
    pub values: &'a [T],
    pub mask: &'a [i32],
    /// \[rows\]: the slot of each row's token.
    pub slots: &'a [usize],
    pub variant: Variant,
}

/// What some models do beyond the softmax of the scaled scores of all keys.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Variant {
    /// How many slots a row reads, its own being the last. None: all up to its own.
    pub window: Option<NonZero<usize>>,
    /// The cap `c` that bends scores `s` to c · tanh(s / c), after the scale and before the mask.
    pub softcap: Option<f32>,
    /// What the products of queries and keys are multiplied by, in place of their division by
    /// √head_dim. Like that, it is applied to queries of float32 and to scores of bfloat16.
    pub scale: Option<f32>,
}

thread_local! {
    /// Kept for the thread's next attention.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Intermediate results, by item: the chunks of the first unit's keys, then those of the second's,
/// ….
#[derive(Default)]
struct Scratch {
    /// [units, group, head_dim].
    queries: Vec<f32>,
    /// [items, group, CHUNK]: scores, then their exponentials.
    scores: Vec<f32>,
    /// [items, group]: the largest score.
    maxima: Vec<f32>,
    /// [items, group]: sums of exponentials.
    sums: Vec<f32>,
    /// [items, group, head_dim]: weighted sums of values.
    mixed: Vec<f32>,
}

struct Attention<'a, T> {
    instructions: InstructionSet,
    sizes: AttentionSizes,
    input: &'a Input<'a, T>,
    /// The slots that each row reads.
    seen: Vec<Range<usize>>,
    /// Chunks of the row that sees most.
    chunks: usize,
}

impl<'a, T: Stored> Attention<'a, T> {
    fn new(instructions: InstructionSet, sizes: AttentionSizes, input: &'a Input<'a, T>) -> Self {
        let seen: Vec<Range<usize>> = (input.slots.iter().enumerate())
            .map(|(row, slot)| {
                let after = slot.saturating_add(1);
                let end = after.min(sizes.cache);
                let window = input.variant.window.map_or(usize::MAX, NonZero::get);
                let start = after.saturating_sub(window).min(end);
                let mask = &input.mask[row * sizes.cache..][start..end];
                let first = mask.iter().position(|&m| m > 0);
                first.map_or(end, |first| start + first)..end
            })
            .collect();
        let most = seen.iter().map(Range::len).max().unwrap_or(0);
        Self {
            instructions,
            sizes,
            input,
            seen,
            chunks: most.div_ceil(CHUNK).max(1),
        }
    }

    fn run(&self, pool: &Pool, scratch: &mut Scratch, result: &mut [T]) {
        let AttentionSizes {
            group, head_dim, ..
        } = self.sizes;
        let items = self.sizes.units() * self.chunks;
        // Multiplication and division by 1 change no bit.
        let scaling = match self.input.variant.scale {
            None => (1.0, (head_dim as f32).sqrt()),
            Some(scale) => (scale, 1.0),
        };
        let (of_queries, of_scores) = if T::SCALES_QUERY {
            (scaling, (1.0, 1.0))
        } else {
            ((1.0, 1.0), scaling)
        };
        scratch.queries.clear();
        let queries = self.input.queries.iter();
        scratch
            .queries
            .extend(queries.map(|q| q.widen() * of_queries.0 / of_queries.1));
        let grown = |scratch: &mut Vec<f32>, len| {
            if scratch.len() < len {
                scratch.resize(len, 0.0);
            }
        };
        grown(&mut scratch.scores, items * group * CHUNK);
        grown(&mut scratch.maxima, items * group);
        grown(&mut scratch.sums, items * group);
        grown(&mut scratch.mixed, items * group * head_dim);

        let queries = &scratch.queries;
        let scores = Parts::new(&mut scratch.scores, group * CHUNK);
        let maxima = Parts::new(&mut scratch.maxima, group);
        pool.run(items, &|item| {
            let slots = self.slots(item);
            let unit = self.unit(item);
            // SAFETY: each item is run once.
            let (scores, maxima) = unsafe { (scores.part(item), maxima.part(item)) };
            let task = Scores {
                queries: &queries[unit * group * head_dim..][..group * head_dim],
                keys: self.heads(self.input.keys, unit, &slots),
                mask: self.mask(unit, &slots),
                head_dim,
                factor: of_scores.0,
                divisor: of_scores.1,
                softcap: self.input.variant.softcap,
                scores,
                maxima,
            };
            with_instructions(self.instructions, task);
        });

        let maxima = &scratch.maxima;
        let scores = Parts::new(&mut scratch.scores, group * CHUNK);
        let sums = Parts::new(&mut scratch.sums, group);
        pool.run(items, &|item| {
            // SAFETY: each item is run once.
            let (scores, sums) = unsafe { (scores.part(item), sums.part(item)) };
            let task = Exponentials {
                len: self.slots(item).len(),
                maximum: |head| {
                    self.fold(maxima, self.unit(item), head, f32::NEG_INFINITY, f32::max)
                },
                scores,
                sums,
            };
            with_instructions(self.instructions, task);
        });

        let sums = &scratch.sums;
        let scores = Parts::new(&mut scratch.scores, group * CHUNK);
        let mixed = Parts::new(&mut scratch.mixed, group * head_dim);
        pool.run(items, &|item| {
            let slots = self.slots(item);
            let unit = self.unit(item);
            // SAFETY: each item is run once.
            let (scores, mixed) = unsafe { (scores.part(item), mixed.part(item)) };
            let task = Mixed {
                sum: |head| self.fold(sums, unit, head, 0.0, |a, b| a + b),
                values: self.heads(self.input.values, unit, &slots),
                head_dim,
                scores,
                mixed,
            };
            with_instructions(self.instructions, task);
        });

        for (unit, result) in result.chunks_exact_mut(group * head_dim).enumerate() {
            let parts = &scratch.mixed[unit * self.chunks * group * head_dim..];
            for (i, to) in result.iter_mut().enumerate() {
                let of_chunk = |chunk: usize| parts[chunk * group * head_dim + i];
                *to = T::nearest((0..self.chunks).map(of_chunk).sum());
            }
        }
    }

    /// The row and head of keys and values that an item belongs to.
    fn unit(&self, item: usize) -> usize {
        item / self.chunks
    }

    /// The slots of an item: none where its row has fewer chunks than another.
    fn slots(&self, item: usize) -> Range<usize> {
        let seen = &self.seen[self.unit(item) / self.sizes.kv_heads];
        let start = (seen.start + item % self.chunks * CHUNK).min(seen.end);
        start..(start + CHUNK).min(seen.end)
    }

    /// The keys or values of some slots, [slots, head_dim].
    fn heads<'b>(&self, cache: &'b [T], unit: usize, slots: &Range<usize>) -> &'b [T] {
        let AttentionSizes {
            cache: length,
            head_dim,
            ..
        } = self.sizes;
        let first = unit * length;
        &cache[(first + slots.start) * head_dim..(first + slots.end) * head_dim]
    }

    fn mask(&self, unit: usize, slots: &Range<usize>) -> &[i32] {
        let first = unit / self.sizes.kv_heads * self.sizes.cache;
        &self.input.mask[first + slots.start..first + slots.end]
    }

    /// Folds the values that the items of a unit have for a head.
    fn fold(
        &self,
        of_items: &[f32],
        unit: usize,
        head: usize,
        initial: f32,
        join: impl Fn(f32, f32) -> f32,
    ) -> f32 {
        let first = unit * self.chunks;
        (first..first + self.chunks)
            .map(|item| of_items[item * self.sizes.group + head])
            .fold(initial, join)
    }
}

#[cfg(test)]
mod tests;
