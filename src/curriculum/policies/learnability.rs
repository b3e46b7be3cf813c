//! Arms by p(1 − p), the variance of success: the contrast within a group, which training learns from.
//!
//! Source: arXiv 2502.12272 defines learnability as the variance of success, per question. Here it is the mean of k(G −
//! k)/(G(G − 1)) over the last groups of an arm. For each group its expectation is p(1 − p) with the p of that group.
//! So an arm of solved and hopeless prompts has no learnability, although half of its completions are right.

use serde::{Deserialize, Serialize};

use super::super::window::Window;
use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, above_zero, from_json, normalised, same_arms, to_json};
use crate::error::KeyError;

/// The largest p(1 − p).
const MOST: f64 = 0.25;

/// `[curriculum.learnability]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The mean is over this many groups of an arm; ≥ 1.
    pub window: usize,
    /// Every arm gets this many imagined groups of p(1 − p) = ¼ in addition to those seen; > 0. This is the optimism:
    /// an arm that was never seen counts as the best possible arm, so that it is tried. An arm without learnability
    /// keeps prior/(window + prior) of the best arm's weight, so that a later change is noticed.
    pub prior: f64,
}

impl Default for Settings {
    /// Our choice: 20 groups of 16 are about DUMP's window of 300 rollouts, and a few seen groups outweigh one imagined
    /// group.
    fn default() -> Self {
        Self { window: 20, prior: 1.0 }
    }
}

/// P(d) ∝ (Σ v + ¼ m) / (n + m), over the last n ≤ window groups of d, with v = k(G − k)/(G(G − 1)) and m = prior.
struct Learnability {
    success_above: f64,
    settings: Settings,
    arms: Vec<Window>,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.learnability.clone();
    if settings.window == 0 {
        return Err(KeyError::new("learnability.window", "must be at least 1 group, got 0"));
    }
    above_zero("learnability.prior", settings.prior)?;
    let arms = vec![Window::new(settings.window); mixture.arms()];
    Ok(Box::new(Learnability { success_above: config.success_above, settings, arms }))
}

impl Learnability {
    fn value(&self, window: &Window) -> f64 {
        let seen = window.count() as f64 / (window.count() as f64 + self.settings.prior);
        seen * window.mean() + (1.0 - seen) * MOST
    }
}

impl Policy for Learnability {
    fn weights(&self, _view: View) -> Vec<f64> {
        normalised(self.arms.iter().map(|window| self.value(window)).collect())
    }

    fn scores(&self, _view: View) -> Vec<Score> {
        self.arms.iter().map(|window| Score { value: self.value(window), bonus: 0.0 }).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let (successes, completions) = group.successes(self.success_above);
        if completions >= 2 {
            let pairs = completions * (completions - 1);
            self.arms[group.arm].push((successes * (completions - successes)) as f64 / pairs as f64);
        }
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.arms)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        let saved: Vec<Window> = from_json(state)?;
        same_arms(&saved, &self.arms)?;
        if let Some(other) = saved.iter().find(|window| window.capacity() != self.settings.window) {
            let (was, is) = (other.capacity(), self.settings.window);
            return Err(format!("curriculum.learnability.window was {was} when saved and is {is} now"));
        }
        self.arms = saved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    fn curriculum(window: usize) -> (CurriculumConfig, Curriculum) {
        let learnability = Settings { window, prior: 1.0 };
        let config = CurriculumConfig { policy: "learnability".into(), learnability, ..CurriculumConfig::default() };
        let curriculum = Curriculum::new(&config, &mixture(3)).unwrap();
        (config, curriculum)
    }

    /// k = 1 of 4 is 3/12 = ¼, k = 2 of 4 is 4/12 = ⅓; the window holds the last two, 0 and ⅓, the prior adds ¼:
    /// 7/12/3 = 7/36. An arm that gave 0 once has ⅛.
    #[test]
    fn values_are_those_of_the_last_groups() {
        let (_, mut curriculum) = curriculum(2);
        let mut observe = |arm, rewards: [f64; 4]| {
            curriculum.observe(&Observation::new(arm, rewards.to_vec(), vec![0.0; 4]), 0, &[0; 3]);
        };
        observe(0, [1.0, -1.0, -1.0, -1.0]);
        observe(0, [1.0; 4]);
        observe(0, [3.0, 0.5, 0.0, -1.0]);
        observe(1, [-1.0; 4]);
        let values: Vec<f64> = curriculum.scores(0, &[0; 3]).iter().map(|score| score.value).collect();
        for (value, expected) in values.iter().zip([7.0 / 36.0, 1.0 / 8.0, 1.0 / 4.0]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn another_window_is_refused() {
        let (config, saved) = curriculum(2);
        let problem = curriculum(3).1.load(&config, saved.save(&config)).unwrap_err();
        assert!(problem.contains("learnability.window was 2 when saved and is 3 now"), "{problem}");
    }
}
