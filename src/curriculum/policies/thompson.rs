//! Thompson sampling for the arm whose success rate is nearest to ½, on counts that forget.
//!
//! Each arm's success rate p has a Beta(1 + s, 1 + f) belief. A group in which a share x of the completions succeeds
//! adds x to s and 1 − x to f: its completions share a prompt, so it is one unit of evidence, not G (our choice).
//! Before that, s and f of all arms are multiplied by γ, as in discounted Thompson sampling (arXiv 1707.09727): an arm
//! that is not drawn is slowly forgotten, and tried again. Imagine one p drawn from each arm's belief: P(d) is the
//! probability that the p of d is the nearest to ½ and so has the largest p(1 − p). That is the distribution of
//! Thompson's rule, computed without draws, so the weights are a function of the counts.
//!
//! It is an integral, P(d) = ∫ f_d(y) Π_{e≠d} P(Y_e > y) dy over y = |p − ½|, summed over `BINS` equal bins. Two
//! arms in the same bin count as nearer in half of the cases each.
//!
//! The belief is about the pooled success rate, so an arm of solved and hopeless prompts looks ideal to this policy,
//! unlike to `learnability` and `dump`.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, first_of, load_into, normalised, rate, to_json};
use crate::error::KeyError;

/// Bins of |p − ½| from 0 to ½. Their width, 0.008, is a quarter of the deviation of the narrowest belief at p = ½
/// that the default memory of 333 groups allows, 0.027.
const BINS: usize = 64;

/// `[curriculum.thompson]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// γ, the share of all counts that remains after a group of any arm; above 0, at most 1, which forgets nothing.
    pub discount: f64,
}

impl Default for Settings {
    /// Our choice: a memory of 333 groups of all arms.
    fn default() -> Self {
        Self { discount: 0.997 }
    }
}

struct Thompson {
    discount: f64,
    success_above: f64,
    arms: Vec<ArmState>,
    /// ln(½ + y) and ln(½ − y) at the middle of each bin.
    logarithms: Vec<(f64, f64)>,
    /// The weights for the present `arms`, once computed: the integral is expensive.
    weights: OnceCell<Vec<f64>>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    successes: f64,
    failures: f64,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let discount = config.thompson.discount;
    rate("thompson.discount", discount)?;
    let middle = |bin| (bin as f64 + 0.5) / BINS as f64 / 2.0;
    let logarithms = (0..BINS).map(middle).map(|y| ((0.5 + y).ln(), (0.5 - y).ln())).collect();
    let arms = vec![ArmState::default(); mixture.arms()];
    let (success_above, weights) = (config.success_above, OnceCell::new());
    Ok(Box::new(Thompson { discount, success_above, arms, logarithms, weights }))
}

impl Thompson {
    /// P(d).
    fn nearest_to_half(&self) -> Vec<f64> {
        first_of(&self.arms.iter().map(|arm| self.belief(arm)).collect::<Vec<_>>())
    }

    /// The probability of each bin of |p − ½|.
    fn belief(&self, arm: &ArmState) -> Vec<f64> {
        let density = |&(more, less): &(f64, f64)| {
            let (high, low) = (arm.successes * more + arm.failures * less, arm.successes * less + arm.failures * more);
            (high.max(low), (high - low).abs())
        };
        let most = self.logarithms.iter().map(|bin| density(bin).0).fold(f64::NEG_INFINITY, f64::max);
        let mass = |bin| {
            let (larger, gap) = density(bin);
            (larger - most).exp() * (1.0 + (-gap).exp())
        };
        normalised(self.logarithms.iter().map(mass).collect())
    }
}

impl Policy for Thompson {
    fn weights(&self, _view: View) -> Vec<f64> {
        self.weights.get_or_init(|| self.nearest_to_half()).clone()
    }

    /// The expectation of p(1 − p): ab/((a + b)(a + b + 1)) for Beta(a, b).
    fn scores(&self, _view: View) -> Vec<Score> {
        let expected = |arm: &ArmState| {
            let (a, b) = (1.0 + arm.successes, 1.0 + arm.failures);
            Score { value: a * b / ((a + b) * (a + b + 1.0)), bonus: 0.0 }
        };
        self.arms.iter().map(expected).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let (successes, completions) = group.successes(self.success_above);
        if completions == 0 {
            return;
        }
        for arm in &mut self.arms {
            arm.successes *= self.discount;
            arm.failures *= self.discount;
        }
        let share = successes as f64 / completions as f64;
        self.arms[group.arm].successes += share;
        self.arms[group.arm].failures += 1.0 - share;
        self.weights = OnceCell::new();
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.arms)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.arms, state)?;
        self.weights = OnceCell::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    fn thompson(arms: usize, discount: f64) -> Curriculum {
        let thompson = Settings { discount };
        let config = CurriculumConfig { policy: "thompson".into(), thompson, ..CurriculumConfig::default() };
        Curriculum::new(&config, &mixture(arms)).unwrap()
    }

    fn observe(curriculum: &mut Curriculum, arm: usize, rewards: &[f64]) {
        curriculum.observe(&Observation::new(arm, rewards.to_vec(), vec![0.0; rewards.len()]), 0, &[0; 12]);
    }

    /// Unseen, Y is uniform on [0, ½]. One group of no success is Beta(1, 2): p has density 2(1 − p), so Y is uniform
    /// still. Two are Beta(1, 3): Y has density 3((½ + y)² + (½ − y)²) = 3/2 + 6y², so P(it is above the uniform Y) =
    /// ∫ (3/2 + 6y²)·2y dy = 3/8 + 3/16 = 9/16.
    #[test]
    fn weights_are_those_of_the_integral() {
        let mut curriculum = thompson(2, 1.0);
        let mut check = |expected: f64| {
            let weights = curriculum.weights(0, &[0; 2]);
            assert!((weights[0] - expected).abs() < 2e-4, "{weights:?}, not {expected}");
            observe(&mut curriculum, 0, &[-1.0; 8]);
        };
        check(0.5);
        check(0.5);
        check(7.0 / 16.0);
    }

    /// Successes 1 and then ½ with γ = ½: s = ½ + ½ = 1, f = ½, so Beta(2, 3/2), E p(1 − p) = 3/(3.5·4.5).
    #[test]
    fn counts_are_of_groups_and_forget() {
        let mut curriculum = thompson(2, 0.5);
        observe(&mut curriculum, 1, &[3.0; 4]);
        observe(&mut curriculum, 1, &[3.0, -1.0, 3.0, -1.0]);
        let scores = curriculum.scores(0, &[0; 2]);
        assert!((scores[1].value - 3.0 / 15.75).abs() < 1e-12, "{scores:?}");
    }

    #[test]
    fn the_arm_at_one_half_wins() {
        let mut curriculum = thompson(3, 1.0);
        for _ in 0..200 {
            observe(&mut curriculum, 0, &[1.0, 1.0, 1.0, -1.0]);
            observe(&mut curriculum, 1, &[1.0, 1.0, -1.0, -1.0]);
            observe(&mut curriculum, 2, &[-1.0; 4]);
        }
        assert!(curriculum.weights(0, &[0; 3])[1] > 0.999);
    }
}
