//! Arms by how much can be learned from them and whether that shows: PAC, progress-augmented advantage curriculum (arXiv 2608.30528).
//!
//! The utility of an arm is u = (1 + s_prog)·s_adv (its equation 8). s_adv is the mean |Â| over the arm's last `window` groups. s_prog is
//! the slope of the least-squares line through their mean rewards against the policy step, made free of units. Each group updates a
//! normal belief N(μ, σ²) about its arm: the precision 1/σ² grows by 1/noise², and μ becomes the mean of itself and u, weighted by their
//! precisions. Each policy step adds drift² to every σ², so that an arm that is not drawn becomes uncertain again. Arms are drawn by
//! Thompson sampling: that with the largest of one draw from each belief.
//!
//! Ours, where a summary of the paper left it open: the slope is multiplied by the number of steps that the groups span and divided by
//! half the range of all rewards seen, so that 1 is a rise from the middle to the top, and cut to −1 to 1. A belief begins at N(1, ½²): 1
//! is the largest mean |Â| that rewards of 0 and 1 have in expectation. σ never grows above ½. The paper's cold start of uniform steps is
//! `curriculum.warmup_steps`.
//!
//! The weights are Thompson's rule without draws, so that they are a function of what was seen: P(d) = E[Π_{e≠d} Φ((X_d − μ_e)/σ_e)] with
//! X_d ~ N(μ_d, σ_d²), by Gauss–Hermite quadrature.

use std::cell::OnceCell;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::super::observation::finite;
use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, Learnt, above_zero, load_into, normalised, not_negative, to_json};
use crate::error::KeyError;

/// Nodes of z ~ N(0, 1) and their weights, of the 10-point Gauss–Hermite rule (Abramowitz and Stegun, table 25.10: √2·x and w/√π).
/// The rule is symmetric.
const NODES: [(f64, f64); 5] = [
    (0.484_935_707_515_498, 0.344_642_334_932_019),
    (1.465_989_094_391_158, 0.135_483_702_980_268),
    (2.484_325_841_638_955, 0.019_111_580_500_770_3),
    (3.581_823_483_551_927, 7.580_709_343_122_17e-4),
    (4.859_462_828_332_312, 4.310_652_630_718_3e-6),
];

/// Above this, Φ is 1 to within 1e-8.
const CERTAIN: f64 = 5.6;

/// μ and σ of an arm that was not seen. σ is never larger.
const UNSEEN: Belief = Belief { mean: 1.0, variance: 0.25 };

/// `[curriculum.pac]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many of an arm's last groups count; ≥ 2, because one group has no slope.
    pub window: usize,
    /// The standard deviation that one group's utility is taken to have, in the unit of the advantages; > 0.
    pub noise: f64,
    /// How far a utility is expected to move in a policy step; ≥ 0.
    pub drift: f64,
}

impl Default for Settings {
    /// Our choice: about as many groups as DUMP's window of 300 rollouts has in groups of 16, and a σ of 0.07 for an arm with one group
    /// in each step.
    fn default() -> Self {
        Self { window: 20, noise: 0.25, drift: 0.02 }
    }
}

struct Pac {
    settings: Settings,
    learnt: State,
    /// The weights for what is `learnt`, once computed.
    weights: OnceCell<Vec<f64>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    arms: Vec<ArmState>,
    /// The policy step of the last group.
    step: u64,
    /// The lowest and the highest reward seen.
    range: Option<(f64, f64)>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    belief: Belief,
    /// The last groups, oldest first.
    groups: VecDeque<Seen>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    step: u64,
    /// Mean |Â|.
    signal: f64,
    /// Mean reward.
    reward: f64,
}

/// A normal distribution.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Belief {
    mean: f64,
    variance: f64,
}

impl Learnt for State {
    fn arms(&self) -> usize {
        self.arms.len()
    }
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.pac.clone();
    if settings.window < 2 {
        return Err(KeyError::new("pac.window", format!("must be at least 2 groups, got {}", settings.window)));
    }
    above_zero("pac.noise", settings.noise)?;
    not_negative("pac.drift", settings.drift)?;
    let arms = vec![ArmState { belief: UNSEEN, groups: VecDeque::new() }; mixture.arms()];
    Ok(Box::new(Pac { settings, learnt: State { arms, step: 0, range: None }, weights: OnceCell::new() }))
}

impl ArmState {
    /// (1 + s_prog)·s_adv of an arm that was seen.
    fn utility(&self, half_range: f64) -> f64 {
        let signal = mean(self.groups.iter().map(|group| group.signal));
        let progress = if half_range > 0.0 { (self.rise() / half_range).clamp(-1.0, 1.0) } else { 0.0 };
        (1.0 + progress) * signal
    }

    /// How far the line through the rewards rises from the first step of the groups to the last.
    fn rise(&self) -> f64 {
        let centre = mean(self.groups.iter().map(|group| group.step as f64));
        let (mut products, mut squares) = (0.0, 0.0);
        for Seen { step, reward, .. } in &self.groups {
            let offset = *step as f64 - centre;
            products += offset * reward;
            squares += offset * offset;
        }
        let steps = self.groups.iter().map(|group| group.step);
        let span = steps.clone().max().zip(steps.min()).map_or(0, |(last, first)| last - first);
        if squares > 0.0 { products / squares * span as f64 } else { 0.0 }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}

impl Belief {
    /// After an observation of this variance.
    fn updated(self, observed: f64, variance: f64) -> Self {
        let (before, now) = (1.0 / self.variance, 1.0 / variance);
        Self { mean: (before * self.mean + now * observed) / (before + now), variance: 1.0 / (before + now) }
    }
}

impl Pac {
    fn best_of_a_draw(&self) -> Vec<f64> {
        let beliefs: Vec<(f64, f64)> =
            self.learnt.arms.iter().map(|arm| (arm.belief.mean, arm.belief.variance.sqrt())).collect();
        let is_best = |arm: usize, z: f64| {
            let x = beliefs[arm].0 + z * beliefs[arm].1;
            let others = beliefs.iter().enumerate().filter(|(other, _)| *other != arm);
            others.map(|(_, (mean, deviation))| normal_cdf((x - mean) / deviation)).product::<f64>()
        };
        let share = |arm| NODES.iter().map(|(z, weight)| weight * (is_best(arm, *z) + is_best(arm, -z))).sum();
        normalised((0..beliefs.len()).map(share).collect())
    }
}

/// Φ.
fn normal_cdf(x: f64) -> f64 {
    if x > CERTAIN { 1.0 } else { 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) }
}

impl Policy for Pac {
    fn weights(&self, _view: View) -> Vec<f64> {
        self.weights.get_or_init(|| self.best_of_a_draw()).clone()
    }

    /// μ, and σ as the bonus.
    fn scores(&self, _view: View) -> Vec<Score> {
        let beliefs = self.learnt.arms.iter().map(|arm| arm.belief);
        beliefs.map(|Belief { mean, variance }| Score { value: mean, bonus: variance.sqrt() }).collect()
    }

    fn observe(&mut self, group: &Observation, view: View) {
        let (Some(signal), Some(reward)) = (group.mean_abs_advantage(), group.mean_reward()) else { return };
        let State { arms, step, range } = &mut self.learnt;
        for reward in finite(&group.rewards) {
            let (low, high) = range.unwrap_or((reward, reward));
            *range = Some((low.min(reward), high.max(reward)));
        }
        let steps = view.step.saturating_sub(*step);
        *step = view.step.max(*step);
        let drift = self.settings.drift.powi(2) * steps as f64;
        arms.iter_mut().for_each(|arm| arm.belief.variance = (arm.belief.variance + drift).min(UNSEEN.variance));
        let arm = &mut arms[group.arm];
        arm.groups.push_back(Seen { step: view.step, signal, reward });
        if arm.groups.len() > self.settings.window {
            arm.groups.pop_front();
        }
        let half_range = range.map_or(0.0, |(low, high)| (high - low) / 2.0);
        arm.belief = arm.belief.updated(arm.utility(half_range), self.settings.noise.powi(2));
        self.weights = OnceCell::new();
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.learnt)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.learnt, state)?;
        self.weights = OnceCell::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    fn pac(arms: usize) -> Curriculum {
        let config = CurriculumConfig { policy: "pac".into(), ..CurriculumConfig::default() };
        Curriculum::new(&config, &mixture(arms)).unwrap()
    }

    fn observe(curriculum: &mut Curriculum, step: u64, arm: usize, signal: f64, reward: f64) {
        curriculum.observe(&Observation::new(arm, vec![reward; 2], vec![signal, -signal]), step, &[0; 12]);
    }

    fn check(curriculum: &Curriculum, arm: usize, mean: f64, variance: f64) {
        let Score { value, bonus } = curriculum.scores(0, &[0; 12])[arm];
        assert!((value - mean).abs() < 1e-12 && (bonus - f64::sqrt(variance)).abs() < 1e-12, "{value} {bonus}");
    }

    /// noise² = 1/16, so a group has four times the precision of an unseen arm, 4, and the mean of signal 0.5 is (4·1 + 16·0.5)/20. After
    /// three steps the variance has grown by 3·0.02². The line through rewards 0 at step 0 and 1 at step 3 rises by 1, which is twice
    /// half the range, cut to 1. So the utility is 2·(0.5 + 0.3)/2.
    #[test]
    fn beliefs_follow_the_formulas() {
        let mut curriculum = pac(3);
        check(&curriculum, 1, 1.0, 0.25);
        observe(&mut curriculum, 0, 1, 0.5, 0.0);
        check(&curriculum, 1, 0.6, 0.05);
        observe(&mut curriculum, 3, 1, 0.3, 1.0);
        let before = 1.0 / (0.05 + 3.0 * 0.0004);
        check(&curriculum, 1, (before * 0.6 + 16.0 * 0.8) / (before + 16.0), 1.0 / (before + 16.0));
        check(&curriculum, 2, 1.0, 0.25);
    }

    /// Rewards 1, 0 and 1 at steps 0, 1 and 2 do not rise. 1, 0 and 0 fall: slope −½ over 2 steps, −1 or more than half the range.
    #[test]
    fn progress_is_the_slope_against_the_step() {
        let last_utility = |rewards: [f64; 3]| {
            let mut curriculum = pac(2);
            let mut before = curriculum.scores(0, &[0; 2])[0];
            for (step, reward) in (0..).zip(rewards) {
                before = curriculum.scores(0, &[0; 2])[0];
                observe(&mut curriculum, step, 0, 0.4, reward);
            }
            let (after, drift) = (curriculum.scores(0, &[0; 2])[0].value, 0.0004);
            let precision = 1.0 / (before.bonus.powi(2) + drift);
            (after * (precision + 16.0) - precision * before.value) / 16.0
        };
        assert!((last_utility([1.0, 0.0, 1.0]) - 0.4).abs() < 1e-9);
        assert!(last_utility([1.0, 0.0, 0.0]).abs() < 1e-9);
    }

    /// Of two normal draws, P(X > Y) = Φ((μ_x − μ_y)/√(σ_x² + σ_y²)). Arm 0 is not seen: N(1, 0.25). Arm 1 has one group of signal 0.5:
    /// N(0.6, 0.05). So arm 0 is drawn with probability Φ(0.4/√0.3) = Φ(0.730297) = 0.767396.
    #[test]
    fn weights_are_probabilities_of_the_largest_draw() {
        assert_eq!(pac(4).weights(0, &[0; 4]), [0.25; 4]);
        let mut curriculum = pac(2);
        observe(&mut curriculum, 0, 1, 0.5, 1.0);
        let weight = curriculum.weights(0, &[0; 2])[0];
        assert!((weight - 0.767_396).abs() < 2e-3, "{weight}");
    }

    #[test]
    fn a_rising_arm_comes_before_one_that_stands_still() {
        let mut curriculum = pac(2);
        for step in 0..20 {
            observe(&mut curriculum, step, 0, 0.5, step as f64 / 20.0);
            observe(&mut curriculum, step, 1, 0.5, 0.5);
        }
        assert!(curriculum.weights(0, &[0; 2])[0] > 0.99);
    }
}
