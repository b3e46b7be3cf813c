//! Matrix products.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::split::Split;
use crate::math::LANES;

/// Rows of a weight matrix that are computed together: a multiple of every tile's height.
const BAND: usize = 24;

/// `out` (O × n) = `weight` (O × K) · `x` (K × n), or `+=` with `add`. `n` is a multiple of [`LANES`].
pub fn matmul(out: &mut [f32], weight: &[f32], x: &[f32], n: usize, add: bool, split: Split) {
    let k = x.len() / n;
    assert!(n.is_multiple_of(LANES) && x.len() == k * n && weight.len() * n == out.len() * k, "shapes do not fit");
    match split {
        Split::Alone => Arch::new().dispatch(Matmul { out, weight, x, n, k, add }),
        Split::Threads => {
            let height = (weight.len() / k).div_ceil(2 * rayon::current_num_threads()).next_multiple_of(BAND);
            out.par_chunks_mut(height * n)
                .zip(weight.par_chunks(height * k))
                .for_each(|(out, weight)| Arch::new().dispatch(Matmul { out, weight, x, n, k, add }));
        }
    }
}

struct Matmul<'a> {
    out: &'a mut [f32],
    weight: &'a [f32],
    x: &'a [f32],
    n: usize,
    k: usize,
    add: bool,
}

impl WithSimd for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { out, weight, x, n, k, add } = self;
        for (out, weight) in out.chunks_mut(BAND * n).zip(weight.chunks(BAND * k)) {
            let mut band = Matmul { out, weight, x, n, k, add };
            let mut at = 0;
            while at < n {
                // Tiles that fill the registers: 24 sums of 32, or 12 of 16.
                at += match (S::F32_LANES, (n - at) / S::F32_LANES) {
                    (16, 4..) => band.tiles::<S, 4, 6>(simd, at),
                    (16, 2..) => band.tiles::<S, 2, 12>(simd, at),
                    (16, _) => band.tiles::<S, 1, 24>(simd, at),
                    _ => band.tiles::<S, 2, 6>(simd, at),
                };
            }
        }
    }
}

/// A band of the output, or all of it.
impl Matmul<'_> {
    /// All rows for R vectors of columns from `at`; returns the number of columns.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const O: usize>(&mut self, simd: S, at: usize) -> usize {
        let height = self.weight.len() / self.k;
        let mut row = 0;
        while row + O <= height {
            self.tile::<S, R, O>(simd, row, at);
            row += O;
        }
        while row < height {
            self.tile::<S, R, 1>(simd, row, at);
            row += 1;
        }
        R * S::F32_LANES
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const O: usize>(&mut self, simd: S, row: usize, at: usize) {
        let (n, k, width) = (self.n, self.k, R * S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        if self.add {
            for (o, sums) in sums.iter_mut().enumerate() {
                let before = S::as_simd_f32s(&self.out[(row + o) * n + at..][..width]).0;
                sums.copy_from_slice(before);
            }
        }
        let weights: [&[f32]; O] = std::array::from_fn(|o| &self.weight[(row + o) * k..][..k]);
        for (i, x) in self.x.chunks_exact(n).enumerate().take(k) {
            let x = S::as_simd_f32s(&x[at..at + width]).0;
            let x: [S::f32s; R] = std::array::from_fn(|r| x[r]);
            for (sums, weight) in sums.iter_mut().zip(&weights) {
                let weight = simd.splat_f32s(weight[i]);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_f32s(weight, x, *sum);
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            S::as_mut_simd_f32s(&mut self.out[(row + o) * n + at..][..width]).0.copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::random;
    use super::*;

    #[test]
    fn products_are_right_for_every_shape_and_the_same_bits_for_every_batch() {
        for (o, k, n) in [(1, 1, 16), (7, 5, 32), (48, 33, 48), (53, 128, 112)] {
            let (weight, x, before) = (random(o * k, 1), random(k * n, 2), random(o * n, 3));
            let mut out = before.clone();
            matmul(&mut out, &weight, &x, n, true, Split::Threads);
            for row in 0..o {
                for column in 0..n {
                    let dot: f64 = (0..k).map(|i| f64::from(weight[row * k + i]) * f64::from(x[i * n + column])).sum();
                    let want = dot + f64::from(before[row * n + column]);
                    assert!((f64::from(out[row * n + column]) - want).abs() < 1e-5);
                }
            }
            let first: Vec<f32> = x.chunks_exact(n).flat_map(|row| &row[..LANES]).copied().collect();
            let mut alone: Vec<f32> = before.chunks_exact(n).flat_map(|row| &row[..LANES]).copied().collect();
            matmul(&mut alone, &weight, &first, LANES, true, Split::Alone);
            let beside: Vec<f32> = out.chunks_exact(n).flat_map(|row| &row[..LANES]).copied().collect();
            assert_eq!(alone, beside);
        }
    }
}
