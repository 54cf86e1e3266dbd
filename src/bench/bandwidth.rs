//! How fast this machine reads memory.

use std::hint::black_box;
use std::ops::BitXor;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::median;
use crate::pjrt::HostBuffer;

/// Bytes of a buffer that no cache holds: several times the last-level caches of current servers.
pub const BUFFER_BYTES: usize = 1 << 30;
/// Bytes that a thread reads in one go.
const STRETCH_BYTES: usize = 1 << 20;
/// Numbers that are read side by side, so that no result waits for the one before it.
const LANES: usize = 256;

/// A buffer of [`BUFFER_BYTES`], in the kind of memory that weights are kept in, whose every page
/// has been written to: pages that were only asked for may all lead to one page of zeros.
pub fn buffer() -> HostBuffer {
    let mut buffer = HostBuffer::zeroed(BUFFER_BYTES);
    buffer
        .par_chunks_mut(STRETCH_BYTES)
        .for_each(|stretch| stretch.fill(1));
    buffer
}

/// What a buffer can be made of: integers without a sign.
pub trait Word: BitXor<Output = Self> + Copy + Default + Send + Sync {}

impl Word for u8 {}
impl Word for u16 {}

/// Gigabytes (10⁹ bytes) a second at which all cores together read `buffer`, each its own
/// stretches, doing nothing else: the median of passes over the whole of it, three at least, and as
/// many as `time` allows.
pub fn read_bandwidth<T: Word>(buffer: &[T], time: Duration) -> f64 {
    let start = Instant::now();
    let mut passes = Vec::new();
    while passes.len() < 3 || start.elapsed() < time {
        let begin = Instant::now();
        read(buffer);
        passes.push(begin.elapsed().as_secs_f64());
    }
    let seconds = median(&passes).unwrap_or(f64::INFINITY);
    size_of_val(buffer) as f64 / seconds / 1e9
}

/// Reads all of `buffer` on all cores.
fn read<T: Word>(buffer: &[T]) {
    buffer
        .par_chunks(STRETCH_BYTES / size_of::<T>())
        .for_each(|stretch| {
            let mut lanes = [T::default(); LANES];
            let (lines, rest) = stretch.as_chunks::<LANES>();
            for line in lines {
                for (lane, value) in lanes.iter_mut().zip(line) {
                    *lane = *lane ^ *value;
                }
            }
            black_box((
                lanes,
                rest.iter().fold(T::default(), |sum, value| sum ^ *value),
            ));
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bandwidth_is_that_of_the_bytes_given() {
        // From the first cache, one core reads some tens of GB/s and no core reads a petabyte.
        let buffer = vec![1_u8; 1 << 17];
        let found = read_bandwidth(&buffer, Duration::from_millis(1));
        assert!(found > 0.01 && found < 1e6, "{found}");
    }
}
