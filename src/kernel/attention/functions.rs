//! Functions of a number, in arithmetic that becomes vector instructions.

/// a · b + sum; with `FUSED` as one instruction, rounded once.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    // Without the instruction, a fused multiplication and addition is a slow function.
    if FUSED {
        a.mul_add(b, sum)
    } else {
        a * b + sum
    }
}

/// eˣ for x ≤ 0, and NaN. Zero below −87, where the result would leave the normal numbers.
#[inline(always)]
pub(super) fn exponential<const FUSED: bool>(x: f32) -> f32 {
    let Reduced { quotient, r, power } = reduce::<FUSED>(x);
    let result = multiply_add::<FUSED>(quotient, r, 1.0) * power;
    if x < -87.0 { 0.0 } else { result }
}

/// tanh x = −m / (m + 2) with m = e^(−2|x|) − 1, with the sign of x. The subtraction of 1 is done
/// in the polynomial, so that small results keep their digits.
#[inline(always)]
pub(super) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    let argument = -2.0 * x.abs();
    let Reduced { quotient, r, power } = reduce::<FUSED>(argument);
    let m = multiply_add::<FUSED>(quotient * r, power, power - 1.0);
    let m = if argument < -87.0 { -1.0 } else { m };
    (-m / (m + 2.0)).copysign(x)
}

/// An exponential eˣ = (1 + `quotient` · `r`) · `power`.
struct Reduced {
    /// (eʳ − 1) / r.
    quotient: f32,
    r: f32,
    /// 2ⁿ.
    power: f32,
}

/// Splits x = n · ln 2 + r with n the integer nearest to x / ln 2, and takes the Taylor polynomial
/// of eʳ of degree 7 for |r| ≤ ln 2 / 2, whose remainder is below 2⁻²⁷. For −87 ≤ x ≤ 0, and NaN.
#[inline(always)]
fn reduce<const FUSED: bool>(x: f32) -> Reduced {
    /// Adding and subtracting it rounds to an integer: float32 has no bits for fractions there.
    const ROUNDING: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough for its products with integers to be exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const COEFFICIENTS: [f32; 7] = [
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let n = x * std::f32::consts::LOG2_E + ROUNDING - ROUNDING;
    let r = multiply_add::<FUSED>(n, -LN_2[0], x);
    let r = multiply_add::<FUSED>(n, -LN_2[1], r);
    let mut quotient = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        quotient = multiply_add::<FUSED>(quotient, r, *coefficient);
    }
    // The cast saturates; callers replace what is out of range.
    let power = f32::from_bits((((n as i32).wrapping_add(127)) << 23) as u32);
    Reduced { quotient, r, power }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place between a result and the right one.
    fn units(found: f32, right: f64) -> f64 {
        let unit = f64::from(found.abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
        (f64::from(found) - right).abs() / unit
    }

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let right = f64::from(x).exp();
            for found in [exponential::<false>(x), exponential::<true>(x)] {
                worst = worst.max(units(found, right));
            }
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!(exponential::<true>(0.0), 1.0);
    }

    #[test]
    fn the_exponential_of_far_and_undefined_numbers_is_zero_and_undefined() {
        for far in [-88.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exponential::<false>(far), 0.0);
            assert_eq!(exponential::<true>(far), 0.0);
        }
        assert!(exponential::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn the_hyperbolic_tangent_is_right_to_a_few_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        let small = (1..=60).map(|power| 0.8_f32.powi(power * 4));
        let spread = (0..=1_000_000).map(|i| i as f32 / 50_000.0);
        for x in small.chain(spread) {
            for x in [x, -x] {
                let right = f64::from(x).tanh();
                for found in [tanh::<false>(x), tanh::<true>(x)] {
                    worst = worst.max(units(found, right));
                }
            }
        }
        assert!(worst < 4.0, "{worst} units");
    }

    #[test]
    fn the_hyperbolic_tangent_of_far_and_undefined_numbers_is_one_and_undefined() {
        for far in [44.0, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!([tanh::<false>(far), tanh::<true>(-far)], [1.0, -1.0]);
        }
        assert_eq!(tanh::<true>(0.0).to_bits(), 0.0_f32.to_bits());
        assert!(tanh::<false>(f32::NAN).is_nan());
    }
}
