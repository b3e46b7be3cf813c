//! Easy to hard on a fixed schedule: the sources in the order of the mixture, independent of the model's success.
//!
//! Source: E2H Reasoner, arXiv 2506.06632, and the schedules of its authors' code (divelab/E2H-Reasoning,
//! `src/trainer.py`). At step t of T, with K arms d = 0..K−1; after step T the weights of step T stay:
//!
//! - step: all weight on arm ⌊tK/T⌋, at most K−1
//! - cosine: P(d) = a·(K−d)/S + (1−a)·(d+1)/S, with S = K(K+1)/2 and a = (1 + cos(πt/T))/2: from weights that fall
//!   linearly with the difficulty to weights that rise; no arm is ever below 1/S
//! - Gaussian: P(d) ∝ exp(−(d−μ)²/2σ²), with μ = (t/T)^β·(K−1)

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Policy, View};
use super::{CurriculumConfig, above_zero, normalised, with_floor, within};
use crate::error::KeyError;

/// `[curriculum.easy_to_hard]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `"step"`, `"cosine"` or `"gaussian"`.
    pub schedule: Schedule,
    /// β of the Gaussian; > 0. Below 1 the centre moves fast at first, above 1 it moves slowly at first.
    pub exponent: f64,
    /// σ of the Gaussian, in arms; > 0.
    pub sigma: f64,
    /// The share of the draws that is spread evenly over all arms, from 0 to 1; for every schedule.
    pub floor: f64,
}

/// How the weight moves from the easy arms to the hard ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Step,
    Cosine,
    Gaussian,
}

impl Default for Settings {
    /// Schedule, β and σ are those of the authors' configuration. Their Gaussian also has a floor of 2/(K+1) of all
    /// draws. Here the default floor is 0; set `floor` for theirs.
    fn default() -> Self {
        Self { schedule: Schedule::Cosine, exponent: 0.5, sigma: 0.5, floor: 0.0 }
    }
}

struct EasyToHard {
    settings: Settings,
    max_steps: u64,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.easy_to_hard.clone();
    above_zero("easy_to_hard.exponent", settings.exponent)?;
    above_zero("easy_to_hard.sigma", settings.sigma)?;
    within("easy_to_hard.floor", settings.floor, 0.0, 1.0)?;
    Ok(Box::new(EasyToHard { settings, max_steps: mixture.max_steps.max(1) }))
}

impl Policy for EasyToHard {
    fn weights(&self, view: View) -> Vec<f64> {
        let arms = view.arms.as_slice().len();
        let done = view.step.min(self.max_steps) as f64 / self.max_steps as f64;
        let weights = match self.settings.schedule {
            Schedule::Step => {
                let active = u128::from(view.step) * arms as u128 / u128::from(self.max_steps);
                (0..arms).map(|arm| f64::from(arm as u128 == active.min(arms as u128 - 1))).collect()
            }
            Schedule::Cosine => {
                let easy = (1.0 + (PI * done).cos()) / 2.0;
                (0..arms).map(|arm| easy * (arms - arm) as f64 + (1.0 - easy) * (arm + 1) as f64).collect()
            }
            Schedule::Gaussian => self.gaussian(done.powf(self.settings.exponent) * (arms - 1) as f64, arms),
        };
        with_floor(normalised(weights), self.settings.floor)
    }
}

impl EasyToHard {
    fn gaussian(&self, centre: f64, arms: usize) -> Vec<f64> {
        let square = |arm: f64| (arm - centre).powi(2);
        // Relative to the nearest arm, which gets exponent 0: one arm keeps a weight, however small σ is.
        let nearest = square(centre.round());
        let exponent =
            |arm: usize| (square(arm as f64) - nearest).max(0.0) / 2.0 / self.settings.sigma / self.settings.sigma;
        (0..arms).map(|arm| (-exponent(arm)).exp()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    /// Over `arms` arms, after `step` of 20 steps.
    fn check(settings: Settings, arms: usize, step: u64, expected: &[f64]) {
        let config =
            CurriculumConfig { policy: "easy_to_hard".into(), easy_to_hard: settings, ..CurriculumConfig::default() };
        let weights = Curriculum::new(&config, &mixture(arms)).unwrap().weights(step, &vec![0; arms]);
        let near = weights.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-12);
        assert!(near && weights.len() == expected.len(), "step {step}: {weights:?}, not {expected:?}");
    }

    #[test]
    fn step_moves_in_equal_parts() {
        let step = || Settings { schedule: Schedule::Step, ..Settings::default() };
        for (at, active) in [(0, 0), (6, 0), (7, 1), (13, 1), (14, 2), (19, 2), (20, 2), (u64::MAX, 2)] {
            let expected: Vec<f64> = (0..3).map(|arm| f64::from(arm == active)).collect();
            check(step(), 3, at, &expected);
        }
        check(Settings { floor: 0.3, ..step() }, 3, 0, &[0.8, 0.1, 0.1]);
    }

    #[test]
    fn cosine_turns_falling_weights_into_rising_ones() {
        for (at, expected) in [
            (0, [3.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0]),
            (10, [1.0 / 3.0; 3]),
            (20, [1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]),
            (99, [1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]),
        ] {
            check(Settings::default(), 3, at, &expected);
        }
    }

    /// After a quarter of the steps the centre has moved √¼ of the way, to arm 1 of 0..=2. Its neighbours are 2σ away.
    #[test]
    fn gaussian_moves_its_centre() {
        let gaussian = || Settings { schedule: Schedule::Gaussian, ..Settings::default() };
        let (side, sum) = ((-2.0_f64).exp(), 1.0 + 2.0 * (-2.0_f64).exp());
        check(gaussian(), 3, 5, &[side / sum, 1.0 / sum, side / sum]);
        check(Settings { sigma: 1e-300, ..gaussian() }, 3, 20, &[0.0, 0.0, 1.0]);
    }
}
