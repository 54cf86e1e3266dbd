//! How far two arrays are apart.

use serde::Serialize;

/// Measures of the difference of two arrays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Largest absolute difference; infinite where one of the two is not finite and the other
    /// differs.
    pub max_abs: f64,
    /// Mean absolute difference.
    pub mean_abs: f64,
    /// Median of the absolute differences.
    pub p50: f64,
    /// 90th percentile of the absolute differences.
    pub p90: f64,
    /// 99th percentile of the absolute differences.
    pub p99: f64,
    /// 99.9th percentile of the absolute differences.
    pub p999: f64,
    /// Largest absolute value of the reference: the scale that differences are held against.
    pub scale: f64,
    /// `max_abs / scale`.
    pub max_relative: f64,
    /// Cosine of the angle between the two, as vectors.
    pub cosine: f64,
}

/// How many differences of two arrays are of which size, relative to the reference's scale.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// How many elements are equal.
    pub equal: usize,
    /// How many differences are in each bin. Bin i begins at 10 to the power
    /// [`LOWEST`](Self::LOWEST)` + i / `[`PER_DECADE`](Self::PER_DECADE); the first and the last
    /// also have those beyond them.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// The power of ten at which the first bin begins.
    pub const LOWEST: i32 = -12;
    /// The power of ten at which the last bin ends.
    pub const HIGHEST: i32 = 2;
    /// Bins to a factor of ten.
    pub const PER_DECADE: usize = 4;
    /// Bins of a histogram.
    pub const BINS: usize = (Self::HIGHEST - Self::LOWEST) as usize * Self::PER_DECADE;

    fn of(differences: &[f64], scale: f64) -> Self {
        let mut counts = vec![0; Self::BINS];
        let mut equal = 0;
        for &difference in differences {
            if difference == 0.0 {
                equal += 1;
                continue;
            }
            let decades = (difference / scale).log10() - f64::from(Self::LOWEST);
            let bin = (decades * Self::PER_DECADE as f64).floor();
            counts[bin.clamp(0.0, (Self::BINS - 1) as f64) as usize] += 1;
        }
        Self { equal, counts }
    }
}

impl Agreement {
    /// Compares `ours` with `reference`, element by element.
    pub fn between<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> Self {
        Self::with_histogram(pairs).0
    }

    /// The same, with how the differences are distributed.
    pub fn with_histogram<'a>(
        pairs: impl Iterator<Item = (&'a f32, &'a f32)>,
    ) -> (Self, Histogram) {
        let mut differences = Vec::new();
        let (mut dot, mut ours_norm, mut reference_norm, mut scale) = (0.0, 0.0, 0.0, 0.0_f64);
        for (&ours, &reference) in pairs {
            let (x, y) = (f64::from(ours), f64::from(reference));
            differences.push(difference(x, y));
            dot += x * y;
            ours_norm += x * x;
            reference_norm += y * y;
            scale = scale.max(y.abs());
        }
        if differences.is_empty() {
            let none = Self {
                cosine: 1.0,
                ..Self::default()
            };
            return (none, Histogram::of(&[], 1.0));
        }
        let histogram = Histogram::of(&differences, scale);
        differences.sort_unstable_by(f64::total_cmp);
        let last = differences.len() - 1;
        let percentile = |p: f64| differences[(p * last as f64).round() as usize];
        let max_abs = differences[last];
        let norms = f64::sqrt(ours_norm) * f64::sqrt(reference_norm);
        let agreement = Self {
            max_abs,
            mean_abs: differences.iter().sum::<f64>() / differences.len() as f64,
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p999: percentile(0.999),
            scale,
            max_relative: if max_abs == 0.0 { 0.0 } else { max_abs / scale },
            cosine: if norms == 0.0 { 1.0 } else { dot / norms },
        };
        (agreement, histogram)
    }
}

/// The absolute difference: infinite where one of the two is not finite and the other differs.
fn difference(ours: f64, reference: f64) -> f64 {
    if ours == reference {
        return 0.0;
    }
    let difference = (ours - reference).abs();
    if difference.is_nan() {
        f64::INFINITY
    } else {
        difference
    }
}

/// The largest absolute difference of two vectors.
pub(super) fn largest_difference(ours: &[f32], reference: &[f32]) -> f64 {
    let pairs = ours.iter().zip(reference);
    pairs.fold(0.0, |largest: f64, (&x, &y)| {
        largest.max(difference(f64::from(x), f64::from(y)))
    })
}

/// Kullback–Leibler divergence of softmax(`ours`) from softmax(`reference`), in nats.
pub fn kl_divergence(reference: &[f32], ours: &[f32]) -> f64 {
    let log_normaliser = |logits: &[f32]| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (p_norm, q_norm) = (log_normaliser(reference), log_normaliser(ours));
    let divergence: f64 = reference
        .iter()
        .zip(ours)
        .map(|(&p, &q)| {
            let log_p = f64::from(p) - p_norm;
            let log_q = f64::from(q) - q_norm;
            match log_p.exp() {
                0.0 => 0.0,
                p => p * (log_p - log_q),
            }
        })
        .sum();
    // Rounding can leave a divergence of equal distributions just below zero.
    if divergence.is_nan() {
        f64::INFINITY
    } else {
        divergence.max(0.0)
    }
}

/// The index of the largest value, the lowest on ties.
pub(super) fn top1(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(ours: &[f32], reference: &[f32]) -> Agreement {
        Agreement::between(ours.iter().zip(reference))
    }

    #[test]
    fn equal_arrays_agree() {
        let x = [1.0, -2.0, 3.0, f32::INFINITY];
        let found = agreement(&x[..3], &x[..3]);
        assert_eq!((found.max_abs, found.max_relative), (0.0, 0.0));
        assert!((found.cosine - 1.0).abs() < 1e-12);
        assert_eq!(agreement(&x, &x).max_abs, 0.0);
    }

    #[test]
    fn differences_are_measured_against_the_reference_scale() {
        let found = agreement(&[1.0, -3.5, 0.0, 0.0], &[1.0, -4.0, 0.0, 0.0]);
        assert_eq!((found.max_abs, found.mean_abs), (0.5, 0.125));
        assert_eq!((found.scale, found.max_relative), (4.0, 0.125));
    }

    #[test]
    fn a_nan_is_never_within_tolerance() {
        assert_eq!(agreement(&[f32::NAN], &[1.0]).max_abs, f64::INFINITY);
        assert_eq!(agreement(&[1.0], &[f32::NAN]).max_abs, f64::INFINITY);
        assert_eq!(kl_divergence(&[0.0, 1.0], &[f32::NAN, 1.0]), f64::INFINITY);
    }

    #[test]
    fn each_difference_is_in_the_bin_of_its_size() {
        let ours = [4.0, 1.0, 0.005, 1e-20, f32::NAN];
        let (_, found) = Agreement::with_histogram(ours.iter().zip(&[4.0, 0.5, 0.0, 0.0, 0.0]));
        let mut expected = vec![0; Histogram::BINS];
        // 0.125 of the scale, 0.00125 of it, and what lies beyond both ends.
        for bin in [11 * 4, 9 * 4, 0, Histogram::BINS - 1] {
            expected[bin] += 1;
        }
        assert_eq!((found.equal, found.counts), (1, expected));
    }

    #[test]
    fn kl_of_a_known_pair() {
        // Softmax of [ln 1, ln 3] is [¼, ¾], of [0, 0] is [½, ½].
        let found = kl_divergence(&[0.0, 3.0_f32.ln()], &[0.0, 0.0]);
        let expected = 0.25 * (0.25_f64 / 0.5).ln() + 0.75 * (0.75_f64 / 0.5).ln();
        assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        assert_eq!(kl_divergence(&[5.0, 1.0], &[5.0, 1.0]), 0.0);
    }

    #[test]
    fn top1_takes_the_lowest_index_on_ties() {
        assert_eq!(top1(&[0.0, 2.0, 2.0, 1.0]), 1);
    }
}
