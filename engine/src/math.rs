//! Mathematics that compilers can turn into vector instructions.

/// f32 numbers in the widest vector. Batches and buffers of kernels are padded to a multiple of it.
pub const LANES: usize = 16;

/// e^x within 2 units in the last place, 0 below −87; a form of Cephes' `expf` that compilers vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 · 2²³ rounds to an integer, which is then in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has few enough digits for an exact product with n.
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let poly = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1)
        * r
        + 0.5;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    let y = (poly * r * r + r + 1.0) * scale;
    if x < -87.0 { 0.0 } else { y }
}

/// The largest number; −∞ if there is none. Whole vectors come first, because a loop over any length is not vectorised.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        largest.iter_mut().zip(vector).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    rest.iter().chain(&largest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.4e-7, "{x}");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0), exp(-100.0)), (0.0, 1.0, 0.0));
    }
}
