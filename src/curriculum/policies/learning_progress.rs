//! Arms by how fast their reward changes, up or down: |fast running mean − slow running mean| of the reward.
//!
//! Sources: Teacher-Student Curriculum Learning, arXiv 1707.00183, uses the absolute slope of the learning curve, so
//! that an arm that is being forgotten is practised as well. arXiv 2106.14876 defines learning progress as the change
//! of a smoothed success rate. P(d) = (1 − ε) LP_d / Σ LP + ε/K, and 1/K while no arm changes.
//!
//! A running mean starts at 0 and is biased towards 0: after n groups its weights sum to 1 − (1 − a)ⁿ. Both means are
//! divided by that sum. So the first group gives LP = 0. Without the division it would give |a_fast − a_slow|·r, which
//! is no progress but the start of the means.

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, load_into, normalised, rate, to_json, with_floor, within};
use crate::error::KeyError;

/// `[curriculum.learning_progress]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The weight of a new group in the fast running mean; above 0, at most 1.
    pub fast: f64,
    /// The weight of a new group in the slow one; above 0, below `fast`.
    pub slow: f64,
    /// ε, the share of the draws that is spread evenly over all arms, from 0 to 1. An arm without progress is drawn
    /// from this share alone.
    pub floor: f64,
}

impl Default for Settings {
    /// Our choice: memories of 5 and of 25 groups of an arm, and a fifth of the draws spread evenly.
    fn default() -> Self {
        Self { fast: 0.2, slow: 0.04, floor: 0.2 }
    }
}

struct LearningProgress {
    settings: Settings,
    arms: Vec<ArmState>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    fast: RunningMean,
    slow: RunningMean,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunningMean {
    sum: f64,
    /// 1 − (1 − rate)ⁿ.
    weight: f64,
}

impl RunningMean {
    fn push(&mut self, value: f64, rate: f64) {
        self.sum += rate * (value - self.sum);
        self.weight += rate * (1.0 - self.weight);
    }

    fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

impl ArmState {
    fn progress(&self) -> f64 {
        (self.fast.mean() - self.slow.mean()).abs()
    }
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.learning_progress.clone();
    rate("learning_progress.fast", settings.fast)?;
    rate("learning_progress.slow", settings.slow)?;
    within("learning_progress.floor", settings.floor, 0.0, 1.0)?;
    if settings.slow >= settings.fast {
        let problem = format!("must be below learning_progress.fast = {}, got {}", settings.fast, settings.slow);
        return Err(KeyError::new("learning_progress.slow", problem));
    }
    Ok(Box::new(LearningProgress { settings, arms: vec![ArmState::default(); mixture.arms()] }))
}

impl Policy for LearningProgress {
    fn weights(&self, _view: View) -> Vec<f64> {
        with_floor(normalised(self.arms.iter().map(ArmState::progress).collect()), self.settings.floor)
    }

    fn scores(&self, _view: View) -> Vec<Score> {
        self.arms.iter().map(|arm| Score { value: arm.progress(), bonus: 0.0 }).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let Some(reward) = group.mean_reward() else { return };
        let arm = &mut self.arms[group.arm];
        arm.fast.push(reward, self.settings.fast);
        arm.slow.push(reward, self.settings.slow);
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

    /// With rates ½ and ¼, rewards 1 then 3: the fast mean is (¼·1 + ½·3)/¾ = 7/3, the slow (3/16·1 + ¼·3)/(7/16) =
    /// 15/7. So LP = 4/21. The arm that was seen once has no progress, although its reward is not 0.
    #[test]
    fn progress_is_the_difference_of_two_unbiased_means() {
        let learning_progress = Settings { fast: 0.5, slow: 0.25, floor: 0.4 };
        let policy = "learning_progress".into();
        let config = CurriculumConfig { policy, learning_progress, ..CurriculumConfig::default() };
        let mut curriculum = Curriculum::new(&config, &mixture(4)).unwrap();
        let mut observe = |arm, reward| {
            curriculum.observe(&Observation::new(arm, vec![reward; 2], vec![0.0; 2]), 0, &[0; 4]);
        };
        observe(2, 5.0);
        observe(1, 1.0);
        observe(1, 3.0);
        let (scores, weights) = (curriculum.scores(0, &[0; 4]), curriculum.weights(0, &[0; 4]));
        assert!((scores[1].value - 4.0 / 21.0).abs() < 1e-12 && scores[2].value == 0.0, "{scores:?}");
        for (weight, expected) in weights.iter().zip([0.1, 0.7, 0.1, 0.1]) {
            assert!((weight - expected).abs() < 1e-12, "{weights:?}");
        }
    }
}
