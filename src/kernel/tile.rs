//! Tiles: the innermost part of a product, one table per instruction set.

/// A cache line of packed activations; or the accumulator of one sum, up to 16 partial sums in
/// float32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Line {
    pub const ZERO: Line = Line([0; 64]);
}

/// Packs one step of a row; a tail shorter than the step is followed by zeros.
pub(super) type Pack<W> = fn(&[W], &mut [Line]);

/// Rows of activations that one tile takes at most. Further rows read the same weights again, from
/// the second-level cache, and prefetch the same weights again: a core drops some prefetches when
/// there are many at a time. On a Zen 4 with 8 rows this reads weights at 32 GB/s, where tiles of 8
/// rows read at 29, and tiles of 4 rows that prefetch once at 24.
pub(super) const MOST_ROWS: usize = 4;

/// Rows of weights that a wide tile takes: 16 sums at most, which is half of AVX-512's registers;
/// the others hold weights and activations.
pub(super) const TILE_WIDTH: usize = 4;

/// Sums that are finished together.
pub(super) const FINISHED: usize = 16;

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
    /// Whether these are the first elements of the sums: then the accumulators' content is ignored.
    pub fresh: bool,
    /// As many weights with the same stride, to prefetch meanwhile. Never read, and may point past
    /// the last weight.
    pub ahead: *const W,
    /// One accumulator per sum: for the first row of weights one per row of activations, then for
    /// the second.
    pub sums: *mut Line,
}

/// Adds a tile's products to its accumulators.
///
/// # Safety
/// The CPU has the instructions. For a tile of `m` rows of activations and `n` rows of weights: `x`
/// points to the packed steps of `m` rows that cover `len` elements, `w` to `n` rows of `len`
/// weights, `stride` apart, and `sums` to `m` times `n` accumulators that nothing else uses
/// meanwhile.
pub(super) type Tile<W> = unsafe fn(&Work<W>);

/// The product in one instruction set. Each sum is taken in the same order whatever the number of
/// rows.
pub(super) struct Tiles<W: 'static> {
    /// Elements that a tile multiplies at a time.
    pub step: usize,
    /// Cache lines that a step of one row takes when packed.
    pub lines: usize,
    /// Packs a step.
    pub pack: Pack<W>,
    /// Tiles of 1 … 4 rows of activations and [`TILE_WIDTH`] rows of weights.
    pub wide: [Tile<W>; MOST_ROWS],
    /// The same with one row of weights.
    pub narrow: [Tile<W>; MOST_ROWS],
    /// Adds up the parts of every n-th accumulator from the first on, n being the second argument,
    /// [`FINISHED`] at most; zeros where there are fewer.
    ///
    /// # Safety
    /// The CPU has the instructions.
    pub finish: unsafe fn(&[Line], usize) -> [f32; FINISHED],
}

/// [`Tiles::wide`] or [`Tiles::narrow`] of a tile function that is generic over both counts of
/// rows.
macro_rules! table {
    (wide $tile:ident) => {
        [
            $tile::<1, { TILE_WIDTH }>,
            $tile::<2, { TILE_WIDTH }>,
            $tile::<3, { TILE_WIDTH }>,
            $tile::<4, { TILE_WIDTH }>,
        ]
    };
    (narrow $tile:ident) => {
        [$tile::<1, 1>, $tile::<2, 1>, $tile::<3, 1>, $tile::<4, 1>]
    };
}
pub(super) use table;
