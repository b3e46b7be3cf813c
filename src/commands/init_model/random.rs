//! Normally distributed numbers in bf16. Each depends on its position only, so the number of threads changes nothing.

use crate::seed::mix_seed;
use half::bf16;
use rayon::prelude::*;
use statrs::distribution::{ContinuousCDF, Normal};

/// Values per 64-bit word of random bits.
const EACH: usize = 4;
/// Bytes that a thread fills at a time: a whole number of words.
const CHUNK: usize = 1 << 18;

/// 65,536 quantiles of a normal distribution with mean 0, which is finer than the steps of bf16.
///
/// 16 random bits choose a quantile. The largest is 4.3 standard deviations.
pub struct Quantiles(Vec<[u8; 2]>);

impl Quantiles {
    pub fn new(std: f64) -> Self {
        let normal = Normal::standard();
        let quantile = |index: u32| std * normal.inverse_cdf((f64::from(index) + 0.5) / f64::from(1 << 16));
        let all: Vec<u32> = (0..1 << 16).collect();
        Self(all.into_par_iter().map(|index| bf16::from_f64(quantile(index)).to_le_bytes()).collect())
    }

    /// Fills `bytes` with the numbers of the stream `key` from index `first` on, which must be a multiple of four.
    pub fn fill(&self, key: u64, first: u64, bytes: &mut [u8]) {
        let word = first / EACH as u64;
        bytes.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
            let start = word + (index * (CHUNK / (2 * EACH))) as u64;
            for (four, word) in chunk.chunks_mut(2 * EACH).zip(start..) {
                let bits = mix_seed(key, word).to_le_bytes();
                for (number, two) in four.chunks_exact_mut(2).zip(bits.chunks_exact(2)) {
                    number.copy_from_slice(&self.0[usize::from(u16::from_le_bytes([two[0], two[1]]))]);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8]) -> Vec<f64> {
        bytes.chunks_exact(2).map(|two| bf16::from_le_bytes([two[0], two[1]]).to_f64()).collect()
    }

    #[test]
    fn they_are_normal() {
        let mut bytes = vec![0; 2_000_000];
        Quantiles::new(0.02).fill(7, 0, &mut bytes);
        let all = numbers(&bytes);
        let mean = |f: &dyn Fn(f64) -> f64| all.iter().map(|x| f(x / 0.02)).sum::<f64>() / all.len() as f64;
        let moments = [mean(&|x| x), mean(&|x| x * x), mean(&|x| x.powi(3)), mean(&|x| x.powi(4))];
        for (found, (want, tolerance)) in moments.iter().zip([(0.0, 0.005), (1.0, 0.01), (0.0, 0.02), (3.0, 0.05)]) {
            assert!((found - want).abs() < tolerance, "{moments:?}");
        }
        let neighbours = all.windows(2).map(|pair| pair[0] * pair[1] / 4e-4).sum::<f64>() / all.len() as f64;
        assert!(neighbours.abs() < 0.005, "{neighbours}");
    }

    #[test]
    fn a_number_depends_on_its_place_and_its_stream_alone() {
        let quantiles = Quantiles::new(1.0);
        let part = |key: u64, first: usize, count: usize| {
            let mut bytes = vec![0; 2 * count];
            quantiles.fill(key, first as u64, &mut bytes);
            numbers(&bytes)
        };
        let whole = part(3, 0, 300_000);
        assert_eq!(part(3, 200_000, 70_001), whole[200_000..270_001]);
        assert_ne!(part(4, 0, 300_000), whole);
    }
}
