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
//! The weights are Thompson's rule without draws, so that they are a function of what was seen: P(d) is the probability that d has the
//! largest of the draws, summed over `BINS` equal bins. Two draws in the same bin count as larger in half of the cases each.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::f64::consts::FRAC_1_SQRT_2;

use serde::{Deserialize, Serialize};

use super::super::observation::{finite, mean};
use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, Learnt, first_of, load_into, to_json, within};
use crate::error::KeyError;

/// Bins between the values that decide. With them a weight is exact to about 0.001, also for an arm of σ = ½ beside one of 0.03.
const BINS: usize = 32;

/// Draws that are further from their mean, in standard deviations, count in the outermost bins.
const FARTHEST: f64 = 4.0;

/// μ and σ of an arm that was not seen. σ is never larger.
const UNSEEN: Belief = Belief { mean: 1.0, variance: 0.25 };

/// `[curriculum.pac]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many of an arm's last groups count; ≥ 2, because one group has no slope.
    pub window: usize,
    /// The standard deviation that one group's utility is taken to have, in the unit of the advantages; from 0.001.
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
    within("pac.noise", settings.noise, 1e-3, 1e3)?;
    within("pac.drift", settings.drift, 0.0, 1e3)?;
    let arms = vec![ArmState { belief: UNSEEN, groups: VecDeque::new() }; mixture.arms()];
    Ok(Box::new(Pac { settings, learnt: State { arms, step: 0, range: None }, weights: OnceCell::new() }))
}

impl ArmState {
    /// (1 + s_prog)·s_adv of an arm that was seen.
    fn utility(&self, half_range: f64) -> f64 {
        let signal = mean(self.groups.iter().map(|group| group.signal)).unwrap_or_default();
        let progress = if half_range > 0.0 { (self.rise() / half_range).clamp(-1.0, 1.0) } else { 0.0 };
        (1.0 + progress) * signal
    }

    /// How far the line through the rewards rises from the first step of the groups to the last.
    fn rise(&self) -> f64 {
        let centre = mean(self.groups.iter().map(|group| group.step as f64)).unwrap_or_default();
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

impl Belief {
    /// After an observation of this variance.
    fn updated(self, observed: f64, variance: f64) -> Self {
        let (before, now) = (1.0 / self.variance, 1.0 / variance);
        Self { mean: (before * self.mean + now * observed) / (before + now), variance: 1.0 / (before + now) }
    }
}

impl Pac {
    fn best_of_a_draw(&self) -> Vec<f64> {
        let beliefs = || self.learnt.arms.iter().map(|arm| (arm.belief.mean, arm.belief.variance.sqrt()));
        let edge = |sign: f64| beliefs().map(|(mean, sigma)| mean + sign * FARTHEST * sigma).fold(f64::MIN, f64::max);
        // Below this no draw is the largest: some arm's is above it.
        let (top, bottom) = (edge(1.0), edge(-1.0));
        let width = (top - bottom) / BINS as f64;
        let masses = |(mean, sigma): (f64, f64)| {
            let mut above = 0.0;
            let mut masses = Vec::with_capacity(BINS + 1);
            for bin in 1..=BINS {
                let at_least = 0.5 * libm::erfc((top - width * bin as f64 - mean) / sigma * FRAC_1_SQRT_2);
                masses.push(at_least - above);
                above = at_least;
            }
            masses.push(1.0 - above);
            masses
        };
        first_of(&beliefs().map(masses).collect::<Vec<_>>())
    }
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

    /// Of two normal draws, P(X > Y) = Φ((μ_x − μ_y)/√(σ_x² + σ_y²)): an unseen arm, N(1, 0.25), beside arms that are known well and less
    /// well, and a certain loser.
    #[test]
    fn weights_are_probabilities_of_the_largest_draw() {
        assert!(pac(4).weights(0, &[0; 4]).iter().all(|weight| (weight - 0.25).abs() < 1e-12));
        for (mean, sigma, expected) in [
            (0.6, 0.05_f64.sqrt(), 0.767_396),
            (1.3, 0.03, 0.274_612),
            (1.35, 0.05, 0.243_050),
            (1.7, 0.05, 0.081_802),
            (-2.0, 0.03, 1.0),
        ] {
            let belief = Belief { mean, variance: sigma * sigma };
            let arms = [UNSEEN, belief].map(|belief| ArmState { belief, groups: VecDeque::new() });
            let learnt = State { arms: arms.to_vec(), step: 0, range: None };
            let weight = Pac { settings: Settings::default(), learnt, weights: OnceCell::new() }.best_of_a_draw()[0];
            assert!((weight - expected).abs() < 2e-3, "{mean} ± {sigma}: {weight}, not {expected}");
        }
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
