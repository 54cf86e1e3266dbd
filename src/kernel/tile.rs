//! Tiles: the innermost part of a product, one table a form of instructions.

use super::pack::Pack;

/// A cache line of packed activations; or the accumulator of one sum, up to 16 partial sums in float32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Line {
    pub const ZERO: Line = Line([0; 64]);
}

/// Rows of activations that one tile takes at most.
pub(super) const MOST_ROWS: usize = 8;

/// Rows of weights that a tile of so many rows of activations takes: 16 sums at most, which is half of AVX-512's registers;
/// the others hold weights and activations.
pub(super) const fn tile_width(rows: usize) -> usize {
    match rows {
        0..=4 => 4,
        5 => 3,
        _ => 2,
    }
}

/// What a tile works on.
pub(super) struct Work<W> {
    /// Packed activations of the tile's rows, from the first step on.
    pub x: *const Line,
    /// The first row of weights.
    pub w: *const W,
    /// From one row of weights to the next, in elements.
    pub stride: usize,
    /// Elements to sum over.
    pub len: usize,
    /// As many weights as these, in one stretch, to ask the memory for meanwhile. Never read.
    pub ahead: *const W,
    /// An accumulator a sum: those of the first row of weights, one a row of activations, then the second's.
    pub sums: *mut Line,
}

/// Adds a tile's products to its accumulators.
///
/// # Safety
/// The CPU has the form's instructions. For a tile of `m` rows of activations and `n` rows of weights: `x` leads to the
/// packed steps of `m` rows that cover `len` elements, `w` to `n` rows of `len` weights, `stride` apart, and `sums` to
/// `m` times `n` accumulators that nobody else uses meanwhile.
pub(super) type Tile<W> = unsafe fn(&Work<W>);

/// One form of the product. Each sum is taken in the same order whatever the number of rows.
pub(super) struct Tiles<W: 'static> {
    /// Elements that a tile multiplies at a time.
    pub step: usize,
    /// Cache lines that a step of one row takes when packed.
    pub lines: usize,
    /// Packs a step.
    pub pack: Pack<W>,
    /// Tiles of 1 … 8 rows of activations and [`tile_width`] rows of weights.
    pub wide: [Tile<W>; MOST_ROWS],
    /// The same with one row of weights.
    pub narrow: [Tile<W>; MOST_ROWS],
    /// Adds up the parts of each accumulator.
    ///
    /// # Safety
    /// The CPU has the form's instructions.
    pub finish: unsafe fn(&[Line], &mut [f32]),
}

/// [`Tiles::wide`] or [`Tiles::narrow`] of a tile function that is generic over both counts of rows.
macro_rules! table {
    (wide $tile:ident) => {
        [
            $tile::<1, { tile_width(1) }>,
            $tile::<2, { tile_width(2) }>,
            $tile::<3, { tile_width(3) }>,
            $tile::<4, { tile_width(4) }>,
            $tile::<5, { tile_width(5) }>,
            $tile::<6, { tile_width(6) }>,
            $tile::<7, { tile_width(7) }>,
            $tile::<8, { tile_width(8) }>,
        ]
    };
    (narrow $tile:ident) => {
        [
            $tile::<1, 1>,
            $tile::<2, 1>,
            $tile::<3, 1>,
            $tile::<4, 1>,
            $tile::<5, 1>,
            $tile::<6, 1>,
            $tile::<7, 1>,
            $tile::<8, 1>,
        ]
    };
}
pub(super) use table;
