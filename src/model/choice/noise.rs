//! JAX's random numbers on the device: threefry2x32 and Gumbel noise, as `jax.random` computes them
//! with `jax_threefry_partitionable` on. [`Key`](crate::sampling::Key) is the same on the host.

use hlo::{ElementType, Tensor};

/// The rotations of each round, four by four in turn.
const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
/// Mixed into the key's third word.
const PARITY: u32 = 0x1BD1_1BDA;

/// The hash of 64-bit counters under keys, all in two halves of one shape, u32.
pub(super) fn threefry2x32<'b>(key: [Tensor<'b>; 2], counter: [Tensor<'b>; 2]) -> [Tensor<'b>; 2] {
    let parity = key[0]
        .builder()
        .filled(ElementType::U32, &key[0].dims(), f64::from(PARITY));
    let schedule = [key[0], key[1], key[0] ^ key[1] ^ parity];
    let [mut x, mut y] = [counter[0] + schedule[0], counter[1] + schedule[1]];
    for group in 0..5_usize {
        for rotation in ROTATIONS[group % 2] {
            x = x + y;
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x;
        }
        x = x + schedule[(group + 1) % 3];
        y = y + schedule[(group + 2) % 3] + (group + 1) as f64;
    }
    [x, y]
}

/// `jax.random.split` of keys u32 [rows, 2]: both parts.
pub(super) fn split<'b>(key: Tensor<'b>) -> [Tensor<'b>; 2] {
    let [rows, _] = key.sizes();
    let b = key.builder();
    let halves = [0, 1].map(|half| key.slice(1, half, half + 1));
    let zero = b.filled(ElementType::U32, &[rows, 1], 0.0);
    [0.0, 1.0].map(|part| {
        let counter = [zero, b.filled(ElementType::U32, &[rows, 1], part)];
        let [x, y] = threefry2x32(halves, counter);
        x.concat(&[y], 1)
    })
}

/// The random bits, u32 [rows, n], at the places `ids` (s32 [rows, n]) after each row's `counter`
/// (u32 [rows, 2]), under its `key` (u32 [rows, 2]).
pub(super) fn bits<'b>(key: Tensor<'b>, counter: Tensor<'b>, ids: Tensor<'b>) -> Tensor<'b> {
    let dims = ids.dims();
    let rows = ids.size(0);
    let everywhere = |x: Tensor<'b>, half: i64| {
        let column = x.slice(1, half, half + 1).reshape(&[rows]);
        column.broadcast(&dims, &[0])
    };
    let [high, low] = [0, 1].map(|half| everywhere(counter, half));
    let sum = low + ids.convert(ElementType::U32);
    let carry = sum.less(low).convert(ElementType::U32);
    let key = [0, 1].map(|half| everywhere(key, half));
    let [x, y] = threefry2x32(key, [high + carry, sum]);
    x ^ y
}

/// Gumbel noise of a float type from random bits, as `jax.random.gumbel` makes it: the negative
/// logarithm of the negative logarithm of a uniform number, each rounded to that type.
pub(super) fn gumbel<'b>(bits: Tensor<'b>, to: ElementType) -> Tensor<'b> {
    use ElementType::{BF16, F16, F32};
    // The bits of a mantissa make a number from 1 below 2. A 16-bit float has those of the low bits
    // that a narrower draw gives.
    let (narrowed, mantissa, tiny) = match to {
        BF16 => ((bits << 24) >> 25, 7, f64::from(f32::MIN_POSITIVE)),
        F16 => ((bits << 16) >> 22, 10, 2.0_f64.powi(-14)),
        _ => (bits >> 9, 23, f64::from(f32::MIN_POSITIVE)),
    };
    let one = bits
        .builder()
        .filled(ElementType::U32, &bits.dims(), f64::from(1_f32.to_bits()));
    let uniform = ((narrowed << (23 - mantissa)) | one).bits_as(F32) - 1.0;
    let rounded = |x: Tensor<'b>| x.convert(to).convert(F32);
    let uniform = rounded(uniform + tiny).max(tiny);
    let inner = rounded(-uniform.log());
    (-inner.log()).convert(to)
}
