//! The product for any CPU: plain Rust, which the compiler turns into the vector instructions of
//! the target's baseline.

use half::bf16;

use super::pack;
use super::tile::{FINISHED, Line, TILE_WIDTH, Tiles, Work, table};

/// Partial sums of an accumulator, and elements of a step.
const LANES: usize = 16;

/// A weight that widens to float32 without loss.
trait Weight: Copy {
    fn widen(self) -> f32;
}

impl Weight for bf16 {
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Weight for f32 {
    fn widen(self) -> f32 {
        self
    }
}

/// # Safety
/// As for [`Tile`](super::tile::Tile).
unsafe fn tile<W: Weight, const MR: usize, const NR: usize>(work: &Work<W>) {
    for n in 0..NR {
        // SAFETY: the n-th of NR rows has len elements.
        let weights = unsafe { std::slice::from_raw_parts(work.w.add(n * work.stride), work.len) };
        for m in 0..MR {
            let mut packed = work.x.cast::<[f32; LANES]>().wrapping_add(m);
            // SAFETY: there are MR times NR accumulators, and a line is 16 times float32.
            let sum = unsafe { &mut *work.sums.add(n * MR + m).cast::<[f32; LANES]>() };
            let mut parts = if work.fresh { [0.0; LANES] } else { *sum };
            let (whole, tail) = weights.as_chunks::<LANES>();
            for step in whole {
                // SAFETY: every step that holds elements is packed for MR rows, a line each.
                let values = unsafe { packed.read() };
                for lane in 0..LANES {
                    parts[lane] += step[lane].widen() * values[lane];
                }
                packed = packed.wrapping_add(MR);
            }
            if !tail.is_empty() {
                // SAFETY: as above; this step is packed whole too.
                let values = unsafe { packed.read() };
                for ((part, weight), value) in parts.iter_mut().zip(tail).zip(values) {
                    *part += weight.widen() * value;
                }
            }
            *sum = parts;
        }
    }
}

unsafe fn bf16_tile<const MR: usize, const NR: usize>(work: &Work<bf16>) {
    // SAFETY: the caller keeps to what Tile asks for.
    unsafe { tile::<bf16, MR, NR>(work) }
}

unsafe fn f32_tile<const MR: usize, const NR: usize>(work: &Work<f32>) {
    // SAFETY: the caller keeps to what Tile asks for.
    unsafe { tile::<f32, MR, NR>(work) }
}

/// Safe; it has the type of [`Tiles::finish`].
unsafe fn finish(accumulators: &[Line], stride: usize) -> [f32; FINISHED] {
    let mut sums = [0.0; FINISHED];
    for (accumulator, sum) in accumulators.iter().step_by(stride).zip(&mut sums) {
        let mut parts = [0.0; LANES];
        for (part, bytes) in parts.iter_mut().zip(accumulator.0.as_chunks::<4>().0) {
            *part = f32::from_ne_bytes(*bytes);
        }
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                parts[lane] += parts[lane + width];
            }
        }
        *sum = parts[0];
    }
    sums
}

/// For bfloat16.
pub(super) static BF16: Tiles<bf16> = Tiles {
    step: LANES,
    lines: 1,
    pack: pack::bf16_widened,
    wide: table!(wide bf16_tile),
    narrow: table!(narrow bf16_tile),
    finish,
};

/// For float32.
pub(super) static F32: Tiles<f32> = Tiles {
    step: LANES,
    lines: 1,
    pack: pack::f32_as_is,
    wide: table!(wide f32_tile),
    narrow: table!(narrow f32_tile),
    finish,
};
