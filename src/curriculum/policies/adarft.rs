//! AdaRFT: a target difficulty that rises while the model succeeds more often than wanted, and falls otherwise.
//!
//! Source: arXiv 2504.05520. After each step T ← clip(T + η·tanh(α(R̄ − β)), d_min, d_max), with R̄ the step's mean
//! success rate; the next batch is the problems whose difficulty is nearest to T. Here an arm has one difficulty: the
//! arms lie evenly on the paper's scale, arm d of K at 100·d/(K−1), so that the paper's numbers keep their meaning. A
//! draw takes one of the two arms next to T; the probability falls linearly with the distance. A step is `batch_size`
//! observed groups.

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Observation, Policy, View};
use super::{CurriculumConfig, above_zero, from_json, to_json, within};
use crate::error::KeyError;

/// The difficulty of the last arm.
const HARDEST: f64 = 100.0;

/// `[curriculum.adarft]`. Difficulties are from 0, the first arm, to 100, the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// η, the largest change of T in a step, in difficulty; > 0.
    pub eta: f64,
    /// α, how strongly T reacts to the success rate; > 0.
    pub alpha: f64,
    /// β, the target success rate; from 0 to 1.
    pub beta: f64,
    /// T at the start, in difficulty; from `min` to `max`.
    pub start: f64,
    /// d_min, in difficulty.
    pub min: f64,
    /// d_max, in difficulty.
    pub max: f64,
}

impl Default for Settings {
    /// η, α, β, d_min and d_max are those of the authors' runs. Starting at the easiest arm is our choice.
    fn default() -> Self {
        Self { eta: 50.0, alpha: 2.0, beta: 0.5, start: 0.0, min: 0.0, max: HARDEST }
    }
}

struct AdaRft {
    settings: Settings,
    success_above: f64,
    batch_size: u64,
    arms: usize,
    state: State,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// T.
    target: f64,
    /// The sum of the success rates of all groups since the last change of T.
    successes: f64,
    groups: u64,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.adarft.clone();
    above_zero("adarft.eta", settings.eta)?;
    above_zero("adarft.alpha", settings.alpha)?;
    within("adarft.beta", settings.beta, 0.0, 1.0)?;
    within("adarft.min", settings.min, 0.0, HARDEST)?;
    within("adarft.max", settings.max, settings.min, HARDEST)?;
    within("adarft.start", settings.start, settings.min, settings.max)?;
    let state = State { target: settings.start, successes: 0.0, groups: 0 };
    let (success_above, batch_size) = (config.success_above, mixture.batch_size.max(1) as u64);
    Ok(Box::new(AdaRft { settings, success_above, batch_size, arms: mixture.arms(), state }))
}

impl Policy for AdaRft {
    fn weights(&self, _view: View) -> Vec<f64> {
        let place = self.state.target / HARDEST * (self.arms - 1) as f64;
        (0..self.arms).map(|arm| (1.0 - (arm as f64 - place).abs()).max(0.0)).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let (successes, completions) = group.successes(self.success_above);
        if completions == 0 {
            return;
        }
        let State { target, successes: sum, groups } = &mut self.state;
        *sum += successes as f64 / completions as f64;
        *groups += 1;
        if *groups >= self.batch_size {
            let Settings { eta, alpha, beta, min, max, .. } = self.settings;
            let rate = *sum / *groups as f64;
            *target = (*target + eta * (alpha * (rate - beta)).tanh()).clamp(min, max);
            (*sum, *groups) = (0.0, 0);
        }
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.state)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        let state: State = from_json(state)?;
        let Settings { min, max, .. } = self.settings;
        if !(min..=max).contains(&state.target) {
            return Err(format!("the saved target difficulty {} is not from {min} to {max}", state.target));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    /// A batch is 4 groups. All right: T = 50·tanh(2·0.5) = 38.08, which is place 1.142 on 0..=3 and so 0.858 of arm 1
    /// and 0.142 of arm 2. Then three right of 16: T = 38.08 + 50·tanh(2·(3/16 − 0.5)) = 10.35, place 0.31.
    #[test]
    fn the_target_follows_success_once_a_batch() {
        let config = CurriculumConfig { policy: "adarft".into(), ..CurriculumConfig::default() };
        let mut curriculum = Curriculum::new(&config, &mixture(4)).unwrap();
        let mut batch = |right: [usize; 4], expected: [f64; 4]| {
            for (place, right) in right.into_iter().enumerate() {
                assert!(
                    place > 0 || curriculum.weights(0, &[0; 4]).iter().filter(|weight| **weight > 0.0).count() <= 2
                );
                let rewards = (0..4).map(|completion| if completion < right { 3.0 } else { -1.0 }).collect();
                curriculum.observe(&Observation::new(0, rewards, vec![0.0; 4]), 0, &[0; 4]);
            }
            let weights = curriculum.weights(0, &[0; 4]);
            let near = weights.iter().zip(expected).all(|(weight, expected)| (weight - expected).abs() < 1e-4);
            assert!(near, "{weights:?}, not {expected:?}");
        };
        batch([4; 4], [0.0, 0.857609, 0.142391, 0.0]);
        batch([3, 0, 0, 0], [0.689528, 0.310472, 0.0, 0.0]);
        batch([0; 4], [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn one_arm_is_always_drawn() {
        let config = CurriculumConfig { policy: "adarft".into(), ..CurriculumConfig::default() };
        assert_eq!(Curriculum::new(&config, &mixture(1)).unwrap().weights(0, &[0]), [1.0]);
    }
}
