//! One finished group, and its statistics that policies learn from.

use serde::{Deserialize, Serialize};

/// G completions of one prompt of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Index of the arm that the prompt came from; less than the number of arms of the policy.
    pub arm: usize,
    /// Total reward of each of the G completions.
    pub rewards: Vec<f64>,
    /// Advantage of each of the G completions, in the same order.
    pub advantages: Vec<f64>,
    /// Index of the prompt's row within its arm; none if unknown, or if the arm's rows are new at every draw.
    pub row: Option<usize>,
    /// Tokens of all completions together; 0 if unknown.
    pub tokens: u64,
    /// The probability of the arm when the prompt was drawn; 0 if unknown.
    pub probability: f64,
}

impl Observation {
    /// A group with known rewards and advantages and nothing else.
    pub fn new(arm: usize, rewards: Vec<f64>, advantages: Vec<f64>) -> Self {
        Self { arm, rewards, advantages, row: None, tokens: 0, probability: 0.0 }
    }

    /// Mean |Â|; none if no advantage is finite.
    pub fn mean_abs_advantage(&self) -> Option<f64> {
        mean(finite(&self.advantages).map(f64::abs))
    }

    /// The mean reward; none if no reward is finite.
    pub fn mean_reward(&self) -> Option<f64> {
        mean(finite(&self.rewards))
    }

    /// The unbiased sample variance of the rewards within the group, Σ(r − r̄)²/(G − 1); none with fewer than two
    /// finite ones.
    ///
    /// For rewards of 0 and 1 it is k(G − k)/(G(G − 1)), whose expectation is p(1 − p).
    pub fn variance(&self) -> Option<f64> {
        let n = finite(&self.rewards).count();
        let mean = self.mean_reward().filter(|_| n >= 2)?;
        Some(finite(&self.rewards).map(|reward| (reward - mean).powi(2)).sum::<f64>() / (n - 1) as f64)
    }

    /// (k, G): the number of completions whose reward is above `threshold`, and the number with a finite reward.
    pub fn successes(&self, threshold: f64) -> (u64, u64) {
        let count = |f: &dyn Fn(f64) -> bool| finite(&self.rewards).filter(|reward| f(*reward)).count() as u64;
        (count(&|reward| reward > threshold), count(&|_| true))
    }
}

/// The values that count as finite: those within the range of f32, which training uses. Then no sum and no square
/// overflows an f64.
pub(super) fn finite(values: &[f64]) -> impl Iterator<Item = f64> + '_ {
    values.iter().copied().filter(|value| value.abs() <= f64::from(f32::MAX))
}

/// None of no values.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_u64), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_finite_numbers() {
        let group = Observation::new(0, vec![3.0, -1.0, f64::NAN, -1.0], vec![1.5, -0.5, 0.25, f64::INFINITY]);
        assert_eq!(group.mean_abs_advantage(), Some(0.75));
        assert_eq!(group.mean_reward(), Some(1.0 / 3.0));
        assert_eq!(group.successes(0.0), (1, 3));
        let none = Observation::new(0, vec![f64::NAN, 1e300], vec![f64::NAN, -1e300]);
        assert_eq!((none.mean_abs_advantage(), none.mean_reward(), none.variance()), (None, None, None));
    }

    #[test]
    fn variance_of_successes_is_the_unbiased_one() {
        for (k, g) in [(0_u16, 8_u16), (1, 8), (4, 8), (8, 8), (1, 2), (3, 16)] {
            let rewards = (0..g).map(|i| f64::from(u8::from(i < k))).collect();
            let (k, g) = (f64::from(k), f64::from(g));
            let variance = Observation::new(0, rewards, vec![0.0; g as usize]).variance().unwrap();
            assert!((variance - k * (g - k) / (g * (g - 1.0))).abs() < 1e-12);
        }
    }
}
