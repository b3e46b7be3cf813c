//! SEC, the self-evolving curriculum: a running mean of |Â| per arm, and Boltzmann sampling over these means.
//!
//! Source: arXiv 2505.14970. After a step, Q_d ← α r + (1 − α) Q_d, where r is the mean |Â| of the step's prompts of
//! d; P(d) = exp(Q_d/τ) / Σ exp(Q/τ), with Q = 0 at first. Here groups come one by one, and each updates Q with its
//! own mean |Â|. So if a step has n prompts of d, the same α forgets n times faster than in the source.

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, above_zero, load_into, rate, softmax, to_json};
use crate::error::KeyError;

/// `[curriculum.sec]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// α, the weight of a new group in the running mean; above 0, at most 1.
    pub alpha: f64,
    /// τ, in the unit of the advantages; > 0. Lower is greedier.
    pub temperature: f64,
}

impl Default for Settings {
    /// τ = 1 is from the authors' Countdown run, which has α = 0.5 per step. α = 0.2 per group is our choice: if a step
    /// has three prompts of an arm, 0.8³ ≈ 0.5 of the old value remains.
    fn default() -> Self {
        Self { alpha: 0.2, temperature: 1.0 }
    }
}

struct Sec {
    settings: Settings,
    arms: Vec<ArmState>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    q: f64,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.sec.clone();
    rate("sec.alpha", settings.alpha)?;
    above_zero("sec.temperature", settings.temperature)?;
    Ok(Box::new(Sec { settings, arms: vec![ArmState::default(); mixture.arms()] }))
}

impl Policy for Sec {
    fn weights(&self, _view: View) -> Vec<f64> {
        let q: Vec<f64> = self.arms.iter().map(|arm| arm.q).collect();
        softmax(&q, self.settings.temperature)
    }

    fn scores(&self, _view: View) -> Vec<Score> {
        self.arms.iter().map(|arm| Score { value: arm.q, bonus: 0.0 }).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let Some(signal) = group.mean_abs_advantage() else { return };
        let q = &mut self.arms[group.arm].q;
        *q = self.settings.alpha * signal + (1.0 - self.settings.alpha) * *q;
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.arms)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.arms, state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    /// Q_1 = 0.25·1 = 0.25, then 0.25·0.5 + 0.75·0.25 = 0.3125.
    #[test]
    fn q_is_a_running_mean_of_the_absolute_advantage() {
        let sec = Settings { alpha: 0.25, temperature: 0.5 };
        let config = CurriculumConfig { policy: "sec".into(), sec, ..CurriculumConfig::default() };
        let mut curriculum = Curriculum::new(&config, &mixture(2)).unwrap();
        assert_eq!(curriculum.weights(0, &[0; 2]), [0.5, 0.5]);
        for advantages in [vec![1.0, -1.0], vec![f64::NAN, f64::NAN], vec![0.75, -0.25]] {
            curriculum.observe(&Observation::new(1, vec![0.0; 2], advantages), 0, &[0; 2]);
        }
        assert_eq!(curriculum.scores(0, &[0; 2])[1], Score { value: 0.3125, bonus: 0.0 });
        let odds = 0.625_f64.exp();
        assert!((curriculum.weights(0, &[0; 2])[1] - odds / (1.0 + odds)).abs() < 1e-12);
    }
}
