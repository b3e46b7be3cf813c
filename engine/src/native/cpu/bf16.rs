//! Products with weights in bf16, on CPUs that multiply pairs of them (AVX-512 BF16): twice as many products per
//! instruction as in f32, and half the bytes to read.
//!
//! Weights and activations are rounded to bf16 (8 significant bits), products are summed in f32. The order of the sums
//! is fixed, as in [`crate::kernels`]: a sequence gives the same bits alone and in any batch.

use rayon::prelude::*;

use crate::kernels::{LANES, Split};

/// Rows of a matrix that a thread computes together: a multiple of every tile's height.
const BAND: usize = 24;

/// A weight matrix (O × K), each row as K/2 pairs of consecutive inputs, the first in the low half.
pub struct Bf16Matrix {
    pairs: Vec<u32>,
    /// K/2, rounded up.
    width: usize,
}

/// Whether this CPU has the instructions.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    let supported = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let supported = false;
    supported
}

impl Bf16Matrix {
    /// Rounds `weight` (O × `k`); `None` if the CPU cannot multiply bf16.
    pub fn new(weight: &[f32], k: usize) -> Option<Self> {
        let pair = |pair: &[f32]| join(pair[0], pair.get(1).copied().unwrap_or(0.0));
        let pairs = || weight.chunks_exact(k).flat_map(|row| row.chunks(2).map(pair)).collect();
        is_supported().then(|| Self { pairs: pairs(), width: k.div_ceil(2) })
    }

    /// `out` (O × n) = weight · `x` (K × n), or `+=` with `add`; `n` is a multiple of [`LANES`], `packed` scratch.
    pub fn multiply(&self, out: &mut [f32], x: &[f32], packed: &mut Vec<u32>, n: usize, add: bool, split: Split) {
        pack(packed, x, n);
        let rows = self.pairs.len() / self.width;
        assert!(n.is_multiple_of(LANES) && packed.len() == self.width * n && out.len() == rows * n);
        let part = |out: &mut [f32], pairs: &[u32]| {
            if !add {
                out.fill(0.0);
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a matrix exists only if `is_supported` found the instructions.
            unsafe {
                x86::multiply(out, pairs, packed, n, self.width);
            }
            #[cfg(not(target_arch = "x86_64"))]
            unreachable!("no matrix is made on this CPU: {}", pairs.len());
        };
        match split {
            Split::Alone => part(out, &self.pairs),
            Split::Threads => {
                let height = rows.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(BAND);
                let parts = out.par_chunks_mut(height * n).zip(self.pairs.par_chunks(height * self.width));
                parts.for_each(|(out, pairs)| part(out, pairs));
            }
        }
    }
}

/// Two numbers as bf16, rounded to nearest, ties to even. NaN stays NaN.
#[inline(always)]
fn join(low: f32, high: f32) -> u32 {
    let round = |x: f32| {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
        if x.is_nan() { 0x7FC0_0000 } else { rounded }
    };
    (round(low) >> 16) | (round(high) & 0xFFFF_0000)
}

/// x (K × n) as pairs of rows (K/2 × n).
fn pack(packed: &mut Vec<u32>, x: &[f32], n: usize) {
    packed.resize((x.len() / n).div_ceil(2) * n, 0);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (packed, pair) in packed.chunks_exact_mut(n).zip(x.chunks(2 * n)) {
                let (low, high) = pair.split_at(n);
                match high.is_empty() {
                    true => packed.iter_mut().zip(low).for_each(|(out, low)| *out = join(*low, 0.0)),
                    false => {
                        packed.iter_mut().zip(low).zip(high).for_each(|((out, low), high)| *out = join(*low, *high));
                    }
                }
            }
        },
    );
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_storeu_ps,
    };

    use super::BAND;
    use crate::kernels::LANES;

    /// `out` (rows × n) += `weight` (rows × width pairs) · `x` (width pairs × n). n is a multiple of [`LANES`].
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn multiply(out: &mut [f32], weight: &[u32], x: &[u32], n: usize, width: usize) {
        for (out, weight) in out.chunks_mut(BAND * n).zip(weight.chunks(BAND * width)) {
            let mut at = 0;
            while at < n {
                // Tiles that fill the 32 registers with 24 sums.
                at += match (n - at) / LANES {
                    4.. => tiles::<4, 6>(out, weight, x, n, width, at),
                    2.. => tiles::<2, 12>(out, weight, x, n, width, at),
                    _ => tiles::<1, 24>(out, weight, x, n, width, at),
                };
            }
        }
    }

    /// All rows for R vectors of columns from `at`; returns the number of columns.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn tiles<const R: usize, const O: usize>(
        out: &mut [f32],
        weight: &[u32],
        x: &[u32],
        n: usize,
        width: usize,
        at: usize,
    ) -> usize {
        let (height, mut row) = (weight.len() / width, 0);
        while row + O <= height {
            tile::<R, O>(&mut out[row * n..], &weight[row * width..], x, n, width, at);
            row += O;
        }
        while row < height {
            tile::<R, 1>(&mut out[row * n..], &weight[row * width..], x, n, width, at);
            row += 1;
        }
        R * LANES
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn tile<const R: usize, const O: usize>(
        out: &mut [f32],
        weight: &[u32],
        x: &[u32],
        n: usize,
        width: usize,
        at: usize,
    ) {
        let mut sums: [[__m512; R]; O] =
            std::array::from_fn(|o| std::array::from_fn(|r| load(&out[o * n + at + r * LANES..])));
        let weights: [&[u32]; O] = std::array::from_fn(|o| &weight[o * width..][..width]);
        for (i, x) in x.chunks_exact(n).enumerate().take(width) {
            let x: [__m512bh; R] = std::array::from_fn(|r| load_pairs(&x[at + r * LANES..]));
            for (sums, weight) in sums.iter_mut().zip(&weights) {
                let weight = as_pairs(_mm512_set1_epi32(weight[i].cast_signed()));
                for (sum, x) in sums.iter_mut().zip(&x) {
                    *sum = _mm512_dpbf16_ps(*sum, *x, weight);
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            for (r, sum) in sums.iter().enumerate() {
                let out = &mut out[o * n + at + r * LANES..][..LANES];
                // SAFETY: the slice is as long as the vector.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[f32]) -> __m512 {
        // SAFETY: the slice is as long as the vector.
        unsafe { _mm512_loadu_ps(values[..LANES].as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_pairs(values: &[u32]) -> __m512bh {
        // SAFETY: the slice is as long as the vector.
        as_pairs(unsafe { _mm512_loadu_si512(values[..LANES].as_ptr().cast()) })
    }

    #[inline(always)]
    fn as_pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes, and every bit pattern is valid.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn bf16(x: f32) -> f32 {
        f32::from_bits(join(x, 0.0) << 16)
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for (x, rounded) in [(1.0, 1.0), (1.003, 1.0), (1.005, 1.007_812_5), (1.003_906_2, 1.0), (-3.02, -3.015_625)] {
            assert_eq!(bf16(x), rounded, "{x}");
        }
        assert!(bf16(f32::NAN).is_nan() && bf16(f32::INFINITY) == f32::INFINITY);
    }

    /// Without the instructions there is nothing to test, because no engine uses this code.
    #[test]
    fn products_are_those_of_the_rounded_numbers() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut random = |count: usize| (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect::<Vec<_>>();
        for (o, k, n) in [(1, 2, 16), (7, 5, 32), (48, 34, 48), (53, 128, 112)] {
            let (weight, x, before) = (random(o * k), random(k * n), random(o * n));
            let Some(matrix) = Bf16Matrix::new(&weight, k) else { return };
            for (add, split) in [(false, Split::Alone), (true, Split::Threads)] {
                let mut out = before.clone();
                matrix.multiply(&mut out, &x, &mut Vec::new(), n, add, split);
                for (at, out) in out.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let dot = |i: usize| f64::from(bf16(weight[row * k + i])) * f64::from(bf16(x[i * n + column]));
                    let want = (0..k).map(dot).sum::<f64>() + if add { f64::from(before[at]) } else { 0.0 };
                    assert!((f64::from(*out) - want).abs() < 1e-5, "{o} {k} {n}: {out} {want}");
                }
            }
        }
    }
}
