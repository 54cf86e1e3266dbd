//! The product in x86-64's vector instructions.

use std::arch::x86_64::*;
use std::ptr;

use half::bf16;

use super::pack;
use super::tile::{FINISHED, Line, TILE_WIDTH, Tiles, Work, table};

/// Defines a tile: `load` makes the vectors of a step's weights from a pointer to them, each of
/// which meets a vector of activations.
macro_rules! tile {
    (
        $name:ident, $features:literal, $weight:ty, $vector:ty,
        step $step:literal, parts $parts:literal, zero $zero:expr,
        load |$from:ident| $load:expr, add |$sum:ident, $a:ident, $b:ident| $add:expr
    ) => {
        /// # Safety
        /// As for [`Tile`](super::tile::Tile).
        #[target_feature(enable = $features)]
        unsafe fn $name<const MR: usize, const NR: usize>(work: &Work<$weight>) {
            const STEP: usize = $step;
            const PARTS: usize = $parts;
            let &Work {
                x,
                w,
                stride,
                len,
                fresh,
                ahead,
                sums,
            } = work;
            let mut acc = [[$zero; MR]; NR];
            if !fresh {
                for n in 0..NR {
                    for m in 0..MR {
                        // SAFETY: there are MR times NR accumulators, each as large as a vector or
                        // larger.
                        acc[n][m] = unsafe { sums.add(n * MR + m).cast::<$vector>().read() };
                    }
                }
            }
            let mut packed = x.cast::<$vector>();
            let mut k = 0;
            while k < len {
                let mut weights = [[$zero; PARTS]; NR];
                for n in 0..NR {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(n * stride + k).cast());
                    // SAFETY: k < len, in the n-th of NR rows.
                    let at = unsafe { w.add(n * stride + k) };
                    weights[n] = if k + STEP <= len {
                        let $from = at;
                        $load
                    } else {
                        let mut tail = [<$weight>::default(); STEP];
                        // SAFETY: the row has len - k elements more, fewer than the array.
                        unsafe { ptr::copy_nonoverlapping(at, tail.as_mut_ptr(), len - k) };
                        let $from = tail.as_ptr();
                        $load
                    };
                }
                for m in 0..MR {
                    for p in 0..PARTS {
                        // SAFETY: every step that holds elements is packed, whole, for MR rows of
                        // PARTS vectors.
                        let $b = unsafe { packed.add(m * PARTS + p).read() };
                        for n in 0..NR {
                            let ($sum, $a) = (acc[n][m], weights[n][p]);
                            acc[n][m] = $add;
                        }
                    }
                }
                packed = packed.wrapping_add(MR * PARTS);
                k += STEP;
            }
            for n in 0..NR {
                for m in 0..MR {
                    // SAFETY: as above.
                    unsafe { sums.add(n * MR + m).cast::<$vector>().write(acc[n][m]) };
                }
            }
        }
    };
}

tile! {
    bf16_avx512bf16, "avx512f,avx512bw,avx512bf16", bf16, __m512,
    step 32, parts 1, zero _mm512_setzero_ps(),
    // SAFETY: tile! gives a pointer to a whole step.
    load |from| [unsafe { _mm512_loadu_ps(from.cast()) }],
    add |sum, a, b| _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b))
}

tile! {
    bf16_avx512, "avx512f", bf16, __m512,
    step 32, parts 2, zero _mm512_setzero_ps(),
    load |from| {
        // SAFETY: tile! gives a pointer to a whole step.
        let pairs = unsafe { _mm512_loadu_si512(from.cast()) };
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
    },
    add |sum, a, b| _mm512_fmadd_ps(a, b, sum)
}

tile! {
    f32_avx512, "avx512f", f32, __m512,
    step 16, parts 1, zero _mm512_setzero_ps(),
    // SAFETY: tile! gives a pointer to a whole step.
    load |from| [unsafe { _mm512_loadu_ps(from) }],
    add |sum, a, b| _mm512_fmadd_ps(a, b, sum)
}

tile! {
    bf16_avx2, "avx2,fma", bf16, __m256,
    step 16, parts 2, zero _mm256_setzero_ps(),
    load |from| {
        // SAFETY: tile! gives a pointer to a whole step.
        let pairs = unsafe { _mm256_loadu_si256(from.cast()) };
        let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(-0x1_0000));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
    },
    add |sum, a, b| _mm256_fmadd_ps(a, b, sum)
}

tile! {
    f32_avx2, "avx2,fma", f32, __m256,
    step 16, parts 2, zero _mm256_setzero_ps(),
    // SAFETY: tile! gives a pointer to a whole step.
    load |from| unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] },
    add |sum, a, b| _mm256_fmadd_ps(a, b, sum)
}

/// 32 times bfloat16 in the type that has that name.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn as_bf16(vector: __m512) -> __m512bh {
    // SAFETY: both types are 64 bytes, and any bits are a value.
    unsafe { std::mem::transmute(vector) }
}

/// Sums sixteen accumulators at a time by exchanging parts of them in pairs: three instructions per
/// sum, where a single accumulator takes ten.
///
/// # Safety
/// The CPU has AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn finish_avx512(accumulators: &[Line], stride: usize) -> [f32; FINISHED] {
    let mut parts = [_mm512_setzero_ps(); FINISHED];
    for (part, line) in parts.iter_mut().zip(accumulators.iter().step_by(stride)) {
        // SAFETY: a line is as large as a vector and aligned like one.
        *part = unsafe { ptr::from_ref(line).cast::<__m512>().read() };
    }
    let mut quarters = [_mm512_setzero_ps(); 4];
    for (quarter, four) in quarters.iter_mut().zip(parts.chunks_exact(4)) {
        let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let low = _mm512_castps_pd(pair(four[0], four[1]));
        let high = _mm512_castps_pd(pair(four[2], four[3]));
        // In each 128 bits, what the four accumulators have there.
        *quarter = _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)),
        );
    }
    let fold = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0xdd>(a, b),
        )
    };
    let whole = fold(
        fold(quarters[0], quarters[1]),
        fold(quarters[2], quarters[3]),
    );
    let mut sums = [0.0; FINISHED];
    // SAFETY: there is room for sixteen.
    unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), whole) };
    sums
}

/// # Safety
/// The CPU has AVX.
#[target_feature(enable = "avx")]
unsafe fn finish_avx2(accumulators: &[Line], stride: usize) -> [f32; FINISHED] {
    let mut sums = [0.0; FINISHED];
    for (accumulator, sum) in accumulators.iter().step_by(stride).zip(&mut sums) {
        // SAFETY: a line is larger than a vector and aligned like one.
        let parts = unsafe { ptr::from_ref(accumulator).cast::<__m256>().read() };
        let four = _mm_add_ps(
            _mm256_castps256_ps128(parts),
            _mm256_extractf128_ps::<1>(parts),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        let one = _mm_add_ss(two, _mm_movehdup_ps(two));
        *sum = _mm_cvtss_f32(one);
    }
    sums
}

/// AVX-512 BF16: the dot product of pairs of bfloat16. It rounds each step to float32 like a fused
/// multiply-add, and takes numbers below 2^-126 (of which bfloat16 weights have none that matter)
/// for zero.
pub(super) static BF16_AVX512BF16: Tiles<bf16> = Tiles {
    step: 32,
    lines: 1,
    pack: pack::bf16_as_is,
    wide: table!(wide bf16_avx512bf16),
    narrow: table!(narrow bf16_avx512bf16),
    finish: finish_avx512,
};

/// AVX-512F, for bfloat16.
pub(super) static BF16_AVX512: Tiles<bf16> = Tiles {
    step: 32,
    lines: 2,
    pack: pack::bf16_split::<32>,
    wide: table!(wide bf16_avx512),
    narrow: table!(narrow bf16_avx512),
    finish: finish_avx512,
};

/// AVX-512F, for float32.
pub(super) static F32_AVX512: Tiles<f32> = Tiles {
    step: 16,
    lines: 1,
    pack: pack::f32_as_is,
    wide: table!(wide f32_avx512),
    narrow: table!(narrow f32_avx512),
    finish: finish_avx512,
};

/// AVX2 and FMA, for bfloat16.
pub(super) static BF16_AVX2: Tiles<bf16> = Tiles {
    step: 16,
    lines: 1,
    pack: pack::bf16_split::<16>,
    wide: table!(wide bf16_avx2),
    narrow: table!(narrow bf16_avx2),
    finish: finish_avx2,
};

/// AVX2 and FMA, for float32.
pub(super) static F32_AVX2: Tiles<f32> = Tiles {
    step: 16,
    lines: 1,
    pack: pack::f32_as_is,
    wide: table!(wide f32_avx2),
    narrow: table!(narrow f32_avx2),
    finish: finish_avx2,
};
