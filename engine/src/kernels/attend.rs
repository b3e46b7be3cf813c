//! Attention of one query over keys and values in tiles of [`LANES`] tokens.

use pulp::{Arch, Simd, WithSimd};

use crate::math::{LANES, exp, max};

/// What one query attends to, in tiles of [`LANES`] tokens: keys (d × [`LANES`]) and values ([`LANES`] × d).
pub trait Context {
    /// The first token.
    fn first(&self) -> usize;
    /// The token after the last one, which is the query's own.
    fn end(&self) -> usize;
    fn keys(&self, tile: usize) -> &[f32];
    fn values(&self, tile: usize) -> &[f32];
}

/// out (d) = softmax(q · K) · V for one query `q` (d, already scaled); `scores` is scratch.
pub fn attend<C: Context>(out: &mut [f32], q: &[f32], context: &C, scores: &mut Vec<f32>) {
    Arch::new().dispatch(Attend { out, q, context, scores });
}

struct Attend<'a, C> {
    out: &'a mut [f32],
    q: &'a [f32],
    context: &'a C,
    scores: &'a mut Vec<f32>,
}

/// Independent sums that hide the latency of an addition. d is a multiple of it.
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
        let first_tile = context.first() / LANES;
        let (first, end) = (context.first() - first_tile * LANES, context.end() - first_tile * LANES);
        scores.resize(end.next_multiple_of(LANES), 0.0);
        for (tile, scores) in (first_tile..).zip(scores.chunks_exact_mut(LANES)) {
            dot_tile::<S, V>(simd, scores, q, context.keys(tile));
        }
        scores[..first].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
        let total = softmax_weights(scores);
        for (at, out) in out.chunks_exact_mut(LANES).enumerate() {
            let mut sums = [[simd.splat_f32s(0.0); V]; CHAINS];
            for (tile, scores) in (first_tile..).zip(scores.chunks_exact(LANES)) {
                let values = &context.values(tile)[at * LANES..];
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

/// scores = Σ_d q[d] · keys[d], for the tile's tokens.
#[inline(always)]
fn dot_tile<S: Simd, const V: usize>(simd: S, scores: &mut [f32], q: &[f32], keys: &[f32]) {
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

/// Stores the sum of the chains.
#[inline(always)]
fn store_sum<S: Simd, const V: usize>(simd: S, out: &mut [f32], sums: &[[S::f32s; V]; CHAINS]) {
    let [a, b, c, d] = sums;
    for (i, out) in S::as_mut_simd_f32s(out).0.iter_mut().enumerate() {
        *out = simd.add_f32s(simd.add_f32s(a[i], b[i]), simd.add_f32s(c[i], d[i]));
    }
}

/// Replaces scores by exp(score − max) and returns their sum. There are a multiple of [`LANES`] scores.
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
    use super::super::test_data::random;
    use super::*;

    struct Whole {
        first: usize,
        tokens: usize,
        d: usize,
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    impl Context for Whole {
        fn first(&self) -> usize {
            self.first
        }
        fn end(&self) -> usize {
            self.tokens
        }
        fn keys(&self, tile: usize) -> &[f32] {
            &self.keys[tile * self.d * LANES..][..self.d * LANES]
        }
        fn values(&self, tile: usize) -> &[f32] {
            &self.values[tile * self.d * LANES..][..self.d * LANES]
        }
    }

    #[test]
    fn attention_is_the_softmax_weighted_mean_of_the_values() {
        let shapes = [(0, 1usize, 16usize), (0, 16, 32), (0, 37, 64), (0, 100, 48)];
        for (first, tokens, d) in shapes.into_iter().chain([(15, 16, 16), (16, 17, 16), (29, 37, 64), (70, 100, 48)]) {
            let size = tokens.next_multiple_of(LANES) * d;
            let context = Whole { first, tokens, d, keys: random(size, 4), values: random(size, 5) };
            let (q, mut out) = (random(d, 6), vec![9.0; d]);
            attend(&mut out, &q, &context, &mut Vec::new());
            let key = |t: usize, i: usize| f64::from(context.keys(t / LANES)[i * LANES + t % LANES]);
            let weight = |t: usize| (0..d).map(|i| f64::from(q[i]) * key(t, i)).sum::<f64>().exp();
            let total: f64 = (first..tokens).map(weight).sum();
            for (i, out) in out.iter().enumerate() {
                let value = |t: usize| f64::from(context.values(t / LANES)[t % LANES * d + i]);
                let want = (first..tokens).map(|t| weight(t) * value(t)).sum::<f64>() / total;
                assert!((f64::from(*out) - want).abs() < 1e-5, "{first} {tokens} {d} {i}");
            }
        }
    }
}
