//! Packing activations in the order in which tiles read them.
//!
//! The rows of a block are interleaved by steps: each step has the elements of every row. A tile
//! then reads sequentially, where rows a power of two apart would compete for the same lines of the
//! cache.

use half::bf16;

use super::tile::Line;

/// bfloat16 unchanged, 32 elements per line.
pub(super) fn bf16_as_is(values: &[bf16], lines: &mut [Line]) {
    fill(lines, values.iter().map(|value| value.to_bits()));
}

/// bfloat16 as float32: the elements of even index, then those of odd index. A tile gets the
/// matching weights by shifting and by masking words that hold two of them. `STEP` elements, 16 per
/// line.
pub(super) fn bf16_split<const STEP: usize>(values: &[bf16], lines: &mut [Line]) {
    let mut floats = [0.0; STEP];
    for (place, value) in values.iter().take(STEP).enumerate() {
        floats[place % 2 * (STEP / 2) + place / 2] = value.to_f32();
    }
    f32_as_is(&floats, lines);
}

/// bfloat16 as float32, in order, 16 elements per line.
pub(super) fn bf16_widened(values: &[bf16], lines: &mut [Line]) {
    fill(lines, values.iter().map(|value| value.to_f32().to_bits()));
}

/// float32 unchanged, 16 elements per line.
pub(super) fn f32_as_is(values: &[f32], lines: &mut [Line]) {
    fill(lines, values.iter().map(|value| value.to_bits()));
}

/// Bits of elements in the machine's byte order.
trait Bits<const SIZE: usize> {
    fn bytes(self) -> [u8; SIZE];
}

impl Bits<2> for u16 {
    fn bytes(self) -> [u8; 2] {
        self.to_ne_bytes()
    }
}

impl Bits<4> for u32 {
    fn bytes(self) -> [u8; 4] {
        self.to_ne_bytes()
    }
}

/// Writes the elements in order, and zeros after them.
fn fill<const SIZE: usize, B: Bits<SIZE>>(
    lines: &mut [Line],
    mut elements: impl Iterator<Item = B>,
) {
    for line in lines {
        for place in line.0.as_chunks_mut::<SIZE>().0 {
            *place = elements.next().map_or([0; SIZE], B::bytes);
        }
    }
}
