//! Softmax sampling with exact natural-log probabilities, the same for every engine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::math::{exp, max};

/// Draws the tokens of one completion.
pub struct Sampler {
    rng: ChaCha8Rng,
    temperature: f32,
    /// The weights of the last draw: its memory is used again.
    weights: Vec<f32>,
}

impl Sampler {
    /// `temperature` 0 is greedy.
    pub fn new(seed: u64, temperature: f32) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), temperature, weights: Vec::new() }
    }

    /// Draws from softmax(logits / temperature) and returns the id and its natural-log probability.
    ///
    /// Greedy takes the first of the largest logits, with its log-probability under softmax(logits).
    /// Sums are in f64: a large vocabulary must not cost digits. `logits` must not be empty.
    pub fn sample(&mut self, logits: &[f32]) -> (u32, f32) {
        let temperature = if self.temperature > 0.0 { self.temperature } else { 1.0 };
        let (max, total) = softmax_weights(logits, temperature, &mut self.weights);
        let pick = if self.temperature > 0.0 {
            self.draw(total)
        } else {
            logits.iter().position(|&x| x == max).unwrap_or_default()
        };
        let scaled = (f64::from(logits[pick]) - f64::from(max)) / f64::from(temperature);
        (pick as u32, (scaled - total.ln()) as f32)
    }

    /// Inverse of the cumulative distribution; rounding at the very end falls on the last possible token.
    fn draw(&mut self, total: f64) -> usize {
        let mut left = self.rng.random::<f64>() * total;
        let mut last = 0;
        for (id, &weight) in self.weights.iter().enumerate() {
            if weight > 0.0 {
                last = id;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

/// Fills `weights` with exp((logit − max) / temperature); returns the largest logit and the sum of the weights.
fn softmax_weights(logits: &[f32], temperature: f32, weights: &mut Vec<f32>) -> (f32, f64) {
    const LANES: usize = 16;
    weights.clear();
    weights.extend_from_slice(logits);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let max = max(weights);
            let mut total = [0.0f64; LANES];
            for chunk in weights.chunks_mut(LANES) {
                for (total, x) in total.iter_mut().zip(chunk) {
                    *x = exp((*x - max) / temperature);
                    *total += f64::from(*x);
                }
            }
            (max, total.iter().sum())
        },
    )
}

/// A seed for stream `index` of `seed` (SplitMix64's finaliser): neighbouring inputs give unrelated streams.
pub fn mix_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_match_the_softmax_and_log_probs_are_exact() {
        let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
        let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sampler = Sampler::new(7, 0.7);
        let mut counts = [0usize; 4];
        for _ in 0..20_000 {
            let (id, log_prob) = sampler.sample(&logits);
            counts[id as usize] += 1;
            assert!((f64::from(log_prob) - (weights[id as usize] / total).ln()).abs() < 1e-6);
        }
        for (count, weight) in counts.iter().zip(&weights) {
            assert!((*count as f64 / 20_000.0 - weight / total).abs() < 0.015);
        }
    }

    #[test]
    fn temperature_zero_is_greedy() {
        let (id, log_prob) = Sampler::new(1, 0.0).sample(&[1.0, 3.0, 3.0]);
        assert_eq!(id, 1);
        assert!((log_prob - (1.0 / (2.0 + (-2.0f32).exp())).ln()).abs() < 1e-6);
    }

    #[test]
    fn neighbouring_seeds_are_unrelated() {
        let draws: Vec<u32> = (0..64).map(|i| Sampler::new(mix_seed(3, i), 1.0).sample(&[0.0; 1024]).0).collect();
        let distinct: std::collections::BTreeSet<_> = draws.iter().collect();
        assert!(distinct.len() > 56, "{draws:?}");
    }
}
