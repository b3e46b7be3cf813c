//! Softmax sampling with exact natural-log probabilities; the same in every engine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Sampling;
use crate::math::{exp, max};

/// Draws the tokens of one completion.
pub struct Sampler {
    rng: ChaCha8Rng,
    temperature: f32,
    truncation: Truncation,
    /// The weights of the last draw; the memory is reused.
    weights: Vec<f32>,
    /// The sum of each `CHUNK` of them, so that a draw adds up the weights of one chunk only.
    sums: Vec<f64>,
}

/// Tokens of the first level of sums; a multiple of [`PARTIAL_SUMS`].
const CHUNK: usize = 512;
/// Independent sums that are added up at the end. The number decides the last bits of a sum.
const PARTIAL_SUMS: usize = 16;

/// A drawn token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SampledToken {
    pub token: u32,
    /// Natural-log probability under the distribution it was drawn from.
    pub log_prob: f32,
    /// Natural-log probability under softmax(logits / temperature), without truncation.
    pub full_log_prob: f32,
}

impl SampledToken {
    /// `false` if any logit was NaN or +∞. Truncation may have removed it, but `full_log_prob` includes it.
    pub fn is_finite(&self) -> bool {
        self.log_prob.is_finite() && self.full_log_prob.is_finite()
    }
}

impl Sampler {
    pub fn new(seed: u64, sampling: &Sampling) -> Self {
        let truncation = Truncation { top_k: sampling.top_k, top_p: sampling.top_p, min_p: sampling.min_p };
        let (rng, temperature) = (ChaCha8Rng::seed_from_u64(seed), sampling.temperature);
        Self { rng, temperature, truncation, weights: Vec::new(), sums: Vec::new() }
    }

    /// The temperature, if every token may be drawn.
    pub fn untruncated_temperature(&self) -> Option<f32> {
        (!self.truncation.is_needed()).then_some(self.temperature)
    }

    /// The next token's position in the cumulative distribution, uniform on [0, 1), for a caller that draws the token
    /// itself.
    pub fn uniform(&mut self) -> f64 {
        self.rng.random()
    }

    /// Draws from softmax(logits / temperature), truncated as [`Sampling`] says.
    ///
    /// Temperature 0 takes the first of the largest logits, with its log-probability under softmax(logits).
    /// Sums are in f64, so that a large vocabulary costs no precision. `logits` must not be empty.
    pub fn sample(&mut self, logits: &[f32]) -> SampledToken {
        self.sample_column(logits, 0, 1)
    }

    /// Samples from one column of `logits` (V × n).
    pub fn sample_column(&mut self, logits: &[f32], column: usize, n: usize) -> SampledToken {
        let logit = |id: usize| logits[id * n + column];
        let is_greedy = self.temperature == 0.0;
        let temperature = if is_greedy { 1.0 } else { self.temperature };
        self.weights.clear();
        match n {
            1 => self.weights.extend_from_slice(logits),
            _ => self.weights.extend(logits[column..].iter().step_by(n)),
        }
        let max = softmax_weights(&mut self.weights, &mut self.sums, temperature);
        let total: f64 = self.sums.iter().sum();
        let (pick, kept) = if is_greedy {
            ((0..self.weights.len()).find(|id| logit(*id) == max).unwrap_or_default(), total)
        } else {
            let kept = self.truncation.apply(&mut self.weights, &mut self.sums).unwrap_or(total);
            (self.draw(kept), kept)
        };
        let scaled = (f64::from(logit(pick)) - f64::from(max)) / f64::from(temperature);
        let log_prob = |total: f64| (scaled - total.ln()) as f32;
        SampledToken { token: pick as u32, log_prob: log_prob(kept), full_log_prob: log_prob(total) }
    }

    /// Inverts the cumulative distribution. If rounding leaves no token, it takes the last possible one.
    fn draw(&mut self, total: f64) -> usize {
        let mut left = self.uniform() * total;
        let mut possible = self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0).peekable();
        let mut first = 0;
        while let Some((chunk, sum)) = possible.next() {
            first = chunk * CHUNK;
            if left < *sum || possible.peek().is_none() {
                break;
            }
            left -= *sum;
        }
        let mut last = first;
        for (id, &weight) in self.weights[first..].iter().enumerate().take(CHUNK) {
            if weight > 0.0 {
                last = first + id;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

/// Which tokens may be drawn: top-k, top-p and min-p.
#[derive(Debug, Clone, Copy)]
struct Truncation {
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

impl Truncation {
    /// Whether any token may be removed.
    fn is_needed(self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Sets the weights of removed tokens to 0 and returns the sum of the rest; `None` if nothing may be removed. The
    /// largest weight is 1. Of equally likely tokens the one with the smaller id is kept.
    fn apply(self, weights: &mut [f32], sums: &mut [f64]) -> Option<f64> {
        if !self.is_needed() {
            return None;
        }
        let mut kept: Vec<(f32, usize)> =
            weights.iter().copied().zip(0..).filter(|(weight, _)| *weight > 0.0).collect();
        let likeliest = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let sum = |kept: &[(f32, usize)]| kept.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
        if (1..kept.len()).contains(&self.top_k) {
            kept.select_nth_unstable_by(self.top_k, likeliest);
            kept.truncate(self.top_k);
        }
        kept.sort_unstable_by(likeliest);
        if self.top_p < 1.0 {
            let mut left = f64::from(self.top_p) * sum(&kept);
            let reached = kept.iter().position(|(weight, _)| {
                left -= f64::from(*weight);
                left <= 0.0
            });
            kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        }
        kept.truncate(kept.partition_point(|(weight, _)| *weight >= self.min_p).max(1));
        weights.fill(0.0);
        sums.fill(0.0);
        for (weight, id) in &kept {
            weights[*id] = *weight;
            sums[id / CHUNK] += f64::from(*weight);
        }
        Some(sum(&kept))
    }
}

/// Replaces logits by exp((logit − max) / temperature). Returns the largest logit, and in `sums` the sum of each chunk.
fn softmax_weights(weights: &mut [f32], sums: &mut Vec<f64>, temperature: f32) -> f32 {
    sums.clear();
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = max(weights);
            for chunk in weights.chunks_mut(CHUNK) {
                // Two loops, because a single one is not vectorised.
                chunk.iter_mut().for_each(|x| *x = exp((*x - max) / temperature));
                sums.push(sum(chunk));
            }
            max
        },
    )
}

#[inline(always)]
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0f64; PARTIAL_SUMS];
    let (vectors, rest) = weights.as_chunks::<PARTIAL_SUMS>();
    for vector in vectors {
        lanes.iter_mut().zip(vector).for_each(|(lane, x)| *lane += f64::from(*x));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::mix_seed;

    #[test]
    fn frequencies_match_the_softmax_and_log_probs_are_exact() {
        let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
        let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sampler = Sampler::new(7, &Sampling::new(0.7, vec![]));
        let mut counts = [0usize; 4];
        for _ in 0..20_000 {
            let draw = sampler.sample(&logits);
            counts[draw.token as usize] += 1;
            assert!((f64::from(draw.log_prob) - (weights[draw.token as usize] / total).ln()).abs() < 1e-6);
            assert_eq!(draw.log_prob, draw.full_log_prob);
        }
        for (count, weight) in counts.iter().zip(&weights) {
            assert!((*count as f64 / 20_000.0 - weight / total).abs() < 0.015);
        }
    }

    #[test]
    fn temperature_zero_is_greedy() {
        let draw = Sampler::new(1, &Sampling::new(0.0, vec![])).sample(&[1.0, 3.0, 3.0]);
        assert_eq!(draw.token, 1);
        assert!((draw.log_prob - (1.0 / (2.0 + (-2.0f32).exp())).ln()).abs() < 1e-6);
    }

    /// Probabilities .4 .3 .2 .1 and an impossible token, in another order.
    #[test]
    fn truncation_keeps_the_likeliest_tokens_and_renormalises_their_log_probs() {
        let probs = [0.2f64, 0.4, 0.0, 0.1, 0.3];
        let logits = probs.map(|p| p.ln() as f32);
        let check = |(top_k, top_p, min_p): (usize, f32, f32), kept: &[u32]| {
            let mut sampler = Sampler::new(3, &Sampling { top_k, top_p, min_p, ..Sampling::new(1.0, vec![]) });
            let total: f64 = kept.iter().map(|id| probs[*id as usize]).sum();
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..500 {
                let draw = sampler.sample(&logits);
                let p = probs[draw.token as usize];
                assert!((f64::from(draw.log_prob) - (p / total).ln()).abs() < 1e-6);
                assert!((f64::from(draw.full_log_prob) - p.ln()).abs() < 1e-6);
                seen.insert(draw.token);
            }
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), kept, "{top_k} {top_p} {min_p}");
        };
        check((0, 1.0, 0.0), &[0, 1, 3, 4]);
        check((2, 1.0, 0.0), &[1, 4]);
        check((9, 1.0, 0.0), &[0, 1, 3, 4]);
        check((0, 0.65, 0.0), &[1, 4]);
        check((0, 0.75, 0.0), &[0, 1, 4]);
        check((0, 1e-9, 0.0), &[1]);
        check((0, 1.0, 0.45), &[0, 1, 4]);
        check((0, 1.0, 1.0), &[1]);
        // After top-k, .4 and .3 are left: .4 alone reaches 55 % of their sum.
        check((2, 0.55, 0.0), &[1]);
        check((3, 0.99, 0.6), &[1, 4]);
    }

    #[test]
    fn nan_and_infinite_logits_give_no_finite_draw() {
        let truncations = [(0, 1.0, 0.0), (2, 1.0, 0.0), (0, 0.5, 0.0), (0, 1.0, 0.1)];
        for (top_k, top_p, min_p) in truncations {
            let sampling = Sampling { top_k, top_p, min_p, ..Sampling::new(1.0, vec![]) };
            let is_finite = |logits: &[f32]| Sampler::new(1, &sampling).sample(logits).is_finite();
            assert!(is_finite(&[1.0, 2.0, f32::NEG_INFINITY]));
            for logits in [[f32::NAN; 3], [1.0, f32::NAN, 3.0], [1.0, f32::INFINITY, 3.0]] {
                assert!(!is_finite(&logits), "{logits:?} {top_k} {top_p} {min_p}");
            }
        }
    }

    #[test]
    fn neighbouring_seeds_are_unrelated() {
        let draws: Vec<u32> = (0..64)
            .map(|i| Sampler::new(mix_seed(3, i), &Sampling::new(1.0, vec![])).sample(&[0.0; 1024]).token)
            .collect();
        let distinct: std::collections::BTreeSet<_> = draws.iter().collect();
        assert!(distinct.len() > 56, "{draws:?}");
    }
}
