//! Tiles: the innermost part of a product, one table a form of instructions.

/// A cache line of packed activations; or the accumulator of one sum, up to 16 partial sums in float32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Line {
    pub const ZERO: Line = Line([0; 64]);
}

/// Packs one step of a row; a tail shorter than the step is followed by zeros.
pub(super) type Pack<W> = fn(&[W], &mut [Line]);

/// Rows of activations that one tile takes at most. Rows beyond them go over the same weights once more, from the second cache,
/// and ask the memory for the same weights ahead once more: a core that is asked for many at a time drops some. On a Zen 4 with 8 rows
/// this reads weights at 32 GB/s where tiles of 8 rows read at 29, and tiles of 4 rows that ask once at 24.
pub(super) const MOST_ROWS: usize = 4;

/// Rows of weights that a wide tile takes: 16 sums at most, which is half of AVX-512's registers; the others hold weights and
/// activations.
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
    /// Whether these are the first elements of the sums: the accumulators' content does not count then.
    pub fresh: bool,
    /// As many weights as these, as far apart, to ask the memory for meanwhile. Never read, and may lead past the last of them.
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
    /// Tiles of 1 … 4 rows of activations and [`TILE_WIDTH`] rows of weights.
    pub wide: [Tile<W>; MOST_ROWS],
    /// The same with one row of weights.
    pub narrow: [Tile<W>; MOST_ROWS],
    /// Adds up the parts of the first accumulator, of the one so many behind it, and so on, [`FINISHED`] at most; zeros where there are
    /// no more.
    ///
    /// # Safety
    /// The CPU has the form's instructions.
    pub finish: unsafe fn(&[Line], usize) -> [f32; FINISHED],
}

/// [`Tiles::wide`] or [`Tiles::narrow`] of a tile function that is generic over both counts of rows.
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
