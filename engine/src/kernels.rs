//! The arithmetic of a forward pass on a CPU, in f32, for whichever vector instructions the machine has (pulp).
//!
//! Activations are stored feature by feature: an array (F × N) holds one feature of all N rows of a batch side by
//! side, N a multiple of [`LANES`]. Weights stay as they are in the files (out × in), shared with the trainer. A
//! product then multiplies one weight with [`LANES`] rows at once: nothing is packed, and no sum crosses lanes.
//!
//! Invariant: every row is computed by the same operations in the same order, whatever stands beside it, however many
//! rows there are and however the work is split. So a sequence gives the same bits alone and in any batch.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::math::{exp, max};

/// Rows are padded to a multiple of this; also the tokens of a block of the cache. The widest vector is this wide.
pub const LANES: usize = 16;
/// Rows of a weight matrix that are worked on together: a multiple of every tile's height.
const BAND: usize = 24;

/// Whether one kernel may use all threads of the current pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The caller has already split the batch over threads.
    Alone,
    /// Output features are split over the pool.
    Threads,
}

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
    /// All rows for R vectors of columns from `at`; returns how many columns that was.
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

/// `out` = x / rms(x) · weight over the features of each row; x and out (D × n), weight (D) (arXiv 1910.07467).
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, n: usize) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut scale = vec![0.0f32; n];
            for x in x.chunks_exact(n) {
                scale.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x);
            }
            scale.iter_mut().for_each(|sum| *sum = 1.0 / (*sum / weight.len() as f32 + eps).sqrt());
            for ((out, x), weight) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(weight) {
                out.iter_mut().zip(x).zip(&scale).for_each(|((out, x), scale)| *out = x * scale * weight);
            }
        },
    );
}

/// out (O × n) += bias (O), column by column.
pub fn add_bias(out: &mut [f32], bias: &[f32], n: usize) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (out, bias) in out.chunks_exact_mut(n).zip(bias) {
                out.iter_mut().for_each(|out| *out += bias);
            }
        },
    );
}

/// Rotates each head of x (heads · d × n) in place; cos and sin (d/2 × n) (arXiv 2104.09864, halves as Llama has them).
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for head in x.chunks_exact_mut(2 * cos.len()) {
                let (left, right) = head.split_at_mut(cos.len());
                for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                    (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
                }
            }
        },
    );
}

/// gate = silu(gate) · up, element by element (arXiv 2002.05202).
pub fn swiglu(gate: &mut [f32], up: &[f32], split: Split) {
    let kernel = |gate: &mut [f32], up: &[f32]| {
        Arch::new().dispatch(
            #[inline(always)]
            || gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + exp(-*gate)) * up),
        );
    };
    match split {
        Split::Alone => kernel(gate, up),
        Split::Threads => {
            const PART: usize = 16 * 1024;
            gate.par_chunks_mut(PART).zip(up.par_chunks(PART)).for_each(|(gate, up)| kernel(gate, up));
        }
    }
}

/// What one query sees: for each block of the cache its keys (d × [`LANES`]) and values ([`LANES`] × d).
pub trait Context {
    /// Tokens that are seen, the query's own included; at least one.
    fn tokens(&self) -> usize;
    fn keys(&self, block: usize) -> &[f32];
    fn values(&self, block: usize) -> &[f32];
}

/// out (d) = softmax(q · K) · V for one query `q` (d, scaled already); `scores` is scratch.
pub fn attend<C: Context>(out: &mut [f32], q: &[f32], context: &C, scores: &mut Vec<f32>) {
    Arch::new().dispatch(Attend { out, q, context, scores });
}

struct Attend<'a, C> {
    out: &'a mut [f32],
    q: &'a [f32],
    context: &'a C,
    scores: &'a mut Vec<f32>,
}

/// Sums that run side by side, so that each need not wait for the one before. d is a multiple of it.
const CHAINS: usize = 4;

impl<C: Context> WithSimd for Attend<'_, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1>(simd),
            8 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, LANES>(simd),
        }
    }
}

impl<C: Context> Attend<'_, C> {
    /// V vectors make [`LANES`] numbers.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Self { out, q, context, scores } = self;
        let tokens = context.tokens();
        scores.resize(tokens.next_multiple_of(LANES), 0.0);
        for (block, scores) in scores.chunks_exact_mut(LANES).enumerate() {
            dot_block::<S, V>(simd, scores, q, context.keys(block));
        }
        scores[tokens..].fill(f32::NEG_INFINITY);
        let total = softmax_weights(scores);
        for (at, out) in out.chunks_exact_mut(LANES).enumerate() {
            let mut sums = [[simd.splat_f32s(0.0); V]; CHAINS];
            for (block, scores) in scores.chunks_exact(LANES).enumerate() {
                let values = &context.values(block)[at * LANES..];
                for (four, scores) in scores.chunks_exact(CHAINS).enumerate() {
                    for (chain, sums) in sums.iter_mut().enumerate() {
                        let row = vectors::<S, V>(&values[(four * CHAINS + chain) * q.len()..]);
                        multiply_add(simd, sums, scores[chain], row);
                    }
                }
            }
            store_sum(simd, out, &sums);
            out.iter_mut().for_each(|x| *x /= total);
        }
    }
}

/// scores = Σ_d q[d] · keys[d], for the block's tokens.
#[inline(always)]
fn dot_block<S: Simd, const V: usize>(simd: S, scores: &mut [f32], q: &[f32], keys: &[f32]) {
    let mut sums = [[simd.splat_f32s(0.0); V]; CHAINS];
    for (q, keys) in q.chunks_exact(CHAINS).zip(keys.chunks_exact(CHAINS * LANES)) {
        for (chain, sums) in sums.iter_mut().enumerate() {
            multiply_add(simd, sums, q[chain], vectors::<S, V>(&keys[chain * LANES..]));
        }
    }
    store_sum(simd, scores, &sums);
}

/// The first [`LANES`] numbers.
#[inline(always)]
fn vectors<S: Simd, const V: usize>(x: &[f32]) -> &[S::f32s; V] {
    S::as_simd_f32s(&x[..LANES]).0.try_into().expect("V vectors make LANES numbers")
}

#[inline(always)]
fn multiply_add<S: Simd, const V: usize>(simd: S, sums: &mut [S::f32s; V], factor: f32, x: &[S::f32s; V]) {
    let factor = simd.splat_f32s(factor);
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = simd.mul_add_f32s(factor, *x, *sum);
    }
}

/// The chains' sums, added up.
#[inline(always)]
fn store_sum<S: Simd, const V: usize>(simd: S, out: &mut [f32], sums: &[[S::f32s; V]; CHAINS]) {
    let [a, b, c, d] = sums;
    for (i, out) in S::as_mut_simd_f32s(out).0.iter_mut().enumerate() {
        *out = simd.add_f32s(simd.add_f32s(a[i], b[i]), simd.add_f32s(c[i], d[i]));
    }
}

/// Replaces scores by exp(score − max) and returns their sum. Their number is a multiple of [`LANES`].
#[inline(always)]
fn softmax_weights(scores: &mut [f32]) -> f32 {
    let max = max(scores);
    let mut total = [0.0f32; LANES];
    for scores in scores.chunks_exact_mut(LANES) {
        for (total, x) in total.iter_mut().zip(scores) {
            *x = exp(*x - max);
            *total += *x;
        }
    }
    total.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

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

    struct Whole {
        tokens: usize,
        d: usize,
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    impl Context for Whole {
        fn tokens(&self) -> usize {
            self.tokens
        }
        fn keys(&self, block: usize) -> &[f32] {
            &self.keys[block * self.d * LANES..][..self.d * LANES]
        }
        fn values(&self, block: usize) -> &[f32] {
            &self.values[block * self.d * LANES..][..self.d * LANES]
        }
    }

    #[test]
    fn attention_is_the_softmax_weighted_mean_of_the_values() {
        for (tokens, d) in [(1usize, 16usize), (16, 32), (37, 64), (100, 48)] {
            let size = tokens.next_multiple_of(LANES) * d;
            let context = Whole { tokens, d, keys: random(size, 4), values: random(size, 5) };
            let (q, mut out) = (random(d, 6), vec![9.0; d]);
            attend(&mut out, &q, &context, &mut Vec::new());
            let key = |t: usize, i: usize| f64::from(context.keys(t / LANES)[i * LANES + t % LANES]);
            let weight = |t: usize| (0..d).map(|i| f64::from(q[i]) * key(t, i)).sum::<f64>().exp();
            let total: f64 = (0..tokens).map(weight).sum();
            for (i, out) in out.iter().enumerate() {
                let value = |t: usize| f64::from(context.values(t / LANES)[t % LANES * d + i]);
                let want = (0..tokens).map(|t| weight(t) * value(t)).sum::<f64>() / total;
                assert!((f64::from(*out) - want).abs() < 1e-5, "{tokens} {d} {i}");
            }
        }
    }

    #[test]
    fn norm_rope_and_swiglu_follow_their_formulas() {
        let (d, n) = (32, 16);
        let (x, weight) = (random(d * n, 7), random(d, 8));
        let mut out = vec![0.0; d * n];
        rms_norm(&mut out, &x, &weight, 1e-5, n);
        let row = 3;
        let mean = (0..d).map(|i| f64::from(x[i * n + row]).powi(2)).sum::<f64>() / d as f64;
        for i in 0..d {
            let want = f64::from(x[i * n + row]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
            assert!((f64::from(out[i * n + row]) - want).abs() < 1e-5);
        }
        let angle = 0.3f32;
        let mut turned = x.clone();
        rope(&mut turned, &vec![angle.cos(); d / 2 * n], &vec![angle.sin(); d / 2 * n]);
        let (a, b) = (x[5 * n + row], x[(5 + d / 2) * n + row]);
        assert!((turned[5 * n + row] - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
        assert!((turned[(5 + d / 2) * n + row] - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
        let mut gate = x.clone();
        swiglu(&mut gate, &out, Split::Threads);
        let want = x[40] / (1.0 + (-x[40]).exp()) * out[40];
        assert!((gate[40] - want).abs() < 1e-6);
    }
}
