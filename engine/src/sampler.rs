//! Softmax sampling with exact natural-log probabilities, the same for every engine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws the tokens of one completion.
pub struct Sampler {
    rng: ChaCha8Rng,
    temperature: f32,
}

impl Sampler {
    /// `temperature` 0 is greedy.
    pub fn new(seed: u64, temperature: f32) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), temperature }
    }

    /// Draws from softmax(logits / temperature) and returns the id and its natural-log probability.
    ///
    /// Greedy takes the first of the largest logits, with its log-probability under softmax(logits).
    /// One pass in f64: the sum over a large vocabulary must not cost digits. `logits` must not be empty.
    pub fn sample(&mut self, logits: &[f32]) -> (u32, f32) {
        let temperature = if self.temperature > 0.0 { f64::from(self.temperature) } else { 1.0 };
        let (best, max) = argmax(logits);
        let scaled = |x: f32| (f64::from(x) - f64::from(max)) / temperature;
        let total: f64 = logits.iter().map(|&x| scaled(x).exp()).sum();
        let pick = if self.temperature > 0.0 { self.draw(logits, total, scaled) } else { best };
        (pick as u32, (scaled(logits[pick]) - total.ln()) as f32)
    }

    /// Inverse of the cumulative distribution; rounding at the very end falls on the last possible token.
    fn draw(&mut self, logits: &[f32], total: f64, scaled: impl Fn(f32) -> f64) -> usize {
        let mut left = self.rng.random::<f64>() * total;
        let mut last = 0;
        for (id, &logit) in logits.iter().enumerate() {
            let weight = scaled(logit).exp();
            if weight > 0.0 {
                last = id;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

fn argmax(logits: &[f32]) -> (usize, f32) {
    let start = (0, f32::NEG_INFINITY);
    logits.iter().copied().enumerate().fold(start, |best, (id, x)| if x > best.1 { (id, x) } else { best })
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
