//! dump+ (ours): DUMP's signal and bonus, corrected for groups that arrive late and for a model that drifts.
//!
//! P(d) = (1 − ε) softmax(UCB(d)/τ) + ε/K, with UCB(d) = L(d)/ρ_d + c·√(2 ln(N + 1)/(n_d + f_d + 1)). The frame is
//! DUMP's, arXiv 2504.09710. `[curriculum.dump_plus]` can switch each of these parts on and off:
//!
//! - **Evidence is counted in groups.** After a group of arm d, all n ← γn and n_d ← n_d + 1, and the same for the
//!   sums of the signal: discounted UCB, arXiv 0805.3415. The counts of an arm that is no longer drawn fade,
//!   and its bonus grows back. `discount = 1` never forgets.
//! - **The signal comes from the last groups of its arm.** With γ alone, an arm that is drawn often has a long memory,
//!   so its signal lags most where the model learns most. Therefore a group of d also multiplies the remembered signal
//!   of d by μ. `memory = 1` switches this off.
//! - **The signal is the variance within a group**, without bias for any G: L(d) = √(mean of s²/h²), with s² the
//!   unbiased variance of a group's rewards and h half the range of all rewards seen. For rewards of two values it is
//!   2·√(mean p(1 − p)), from 0 to 1. That is the unit of mean |Â| with std normalisation, whose bias depends on G.
//!   `signal = "advantage"` takes the mean |Â| of a group instead.
//! - **Arms can start optimistic.** `prior` groups of signal 1, the maximum, are averaged into L(d) and never fade. So
//!   an unseen arm counts as the best, and a forgotten arm does so again. With `prior = 0` an unseen arm has L(d) = 0
//!   as in DUMP.
//! - **In flight counts as seen.** f_d groups were drawn but are not observed yet. They count in n_d and in N of the
//!   bonus, so that one stale state does not send a whole batch to one arm. `in_flight = false`: f = 0.
//! - **No arm dies**: a share ε of all draws is spread evenly over all arms. `floor = 0` switches this off.
//! - **Signal per token**, with `per_token`: ρ_d is the mean length of a completion of d, divided by the mean of these
//!   lengths over all arms.

use serde::{Deserialize, Serialize};

use super::super::observation::finite;
use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, Learnt, above_zero, load_into, rate, softmax, to_json, with_floor, within};
use crate::error::KeyError;

/// Below this many groups (or completions), the sums of an arm have faded into rounding errors.
const FADED: f64 = 1e-12;

/// `[curriculum.dump_plus]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `"variance"` or `"advantage"`.
    pub signal: Signal,
    /// γ, the share of all sums that remains after a group of any arm; above 0, at most 1, which forgets nothing.
    pub discount: f64,
    /// μ, the share of an arm's signal that remains after a group of that arm; above 0, at most 1, which leaves
    /// forgetting to γ.
    pub memory: f64,
    /// Every arm gets this many imagined groups of signal 1 in addition to those seen; 0 or more.
    pub prior: f64,
    /// Whether groups that are drawn but not observed count in the bonus.
    pub in_flight: bool,
    /// ε, the share of the draws that is spread evenly over all arms, from 0 to 1.
    pub floor: f64,
    /// Whether an arm's signal is divided by the relative length of its completions.
    pub per_token: bool,
    /// c, in the unit of the signal; 0 or more. DUMP's bonus has 1.
    pub bonus: f64,
    /// τ, in the unit of the signal; > 0. Lower is greedier.
    pub temperature: f64,
}

/// The measure of how much can be learnt from a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// The unbiased variance of its rewards.
    Variance,
    /// Its mean |Â|.
    Advantage,
}

impl Default for Settings {
    /// As measured in docs/results.md: μ and a small bonus help and are on. Counting groups in flight makes no
    /// difference and is on. γ makes no difference and is off. ε, `prior` and `per_token` have a cost and are off. The
    /// numbers are ours, except for DUMP's τ = 0.1:
    ///
    /// - μ = 0.9 is as old and as noisy as DUMP's window of 300 rollouts, or 19 groups: the mean age of its groups is
    ///   μ/(1 − μ) = 9, and they have the variance of (1 + μ)/(1 − μ) = 19 equally weighted groups. Prompts of one arm
    ///   differ, so the signal of one group deviates by about 0.3 from the mean of its arm (for a mix of p = ½ and p =
    ///   0 or 1, by up to 0.5). Then the mean has a standard error of 0.3/√19 = 0.07, below τ.
    /// - c = 0.03 makes the bonus a third of that error: after 333 groups it is c·√(2 ln 334)/√(n_d + 1) = 0.10/√(n_d +
    ///   1), compared with 0.3/√n_d. DUMP's c = 1, counted in groups, is ten times the error: 0.63 at n_d = 28 and 0.88
    ///   at 14. This difference of 2.5 τ depends only on how often the arms were drawn, and pulls the mix towards
    ///   uniform.
    /// - γ = 1 and ε = 0, because the softmax explores by itself: an arm whose signal is 0.5 below the best is drawn
    ///   e⁻⁵ times as often, and μ lets it rise within a few groups. If the model can lose a skill for good, or
    ///   suddenly improve on an arm, γ = 0.997 (a memory of 1/(1 − γ) = 333 groups) and ε = 0.05 may help.
    /// - prior = 0: optimism spends groups on each hopeless arm before anything is learnt.
    fn default() -> Self {
        Self {
            signal: Signal::Variance,
            discount: 1.0,
            memory: 0.9,
            prior: 0.0,
            in_flight: true,
            floor: 0.0,
            per_token: false,
            bonus: 0.03,
            temperature: 0.1,
        }
    }
}

struct DumpPlus {
    settings: Settings,
    state: State,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The lowest and the highest reward seen.
    range: Option<(f64, f64)>,
    arms: Vec<ArmState>,
}

/// Discounted sums over the groups of one arm.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    /// n_d.
    groups: f64,
    /// Σ s² or Σ mean |Â|, and Σ 1 with the same discounts.
    signal: f64,
    weight: f64,
    /// Sums over the groups whose tokens are known.
    tokens: f64,
    completions: f64,
}

impl Learnt for State {
    fn arms(&self) -> usize {
        self.arms.len()
    }
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.dump_plus.clone();
    rate("dump_plus.discount", settings.discount)?;
    rate("dump_plus.memory", settings.memory)?;
    within("dump_plus.prior", settings.prior, 0.0, 1e6)?;
    within("dump_plus.floor", settings.floor, 0.0, 1.0)?;
    within("dump_plus.bonus", settings.bonus, 0.0, 1e6)?;
    above_zero("dump_plus.temperature", settings.temperature)?;
    Ok(Box::new(DumpPlus { settings, state: State { range: None, arms: vec![ArmState::default(); mixture.arms()] } }))
}

impl DumpPlus {
    /// L(d).
    fn signal(&self, arm: &ArmState) -> f64 {
        let prior = self.settings.prior;
        let (mean, seen) = match arm.weight > FADED {
            true => (arm.signal / arm.weight, arm.groups / (arm.groups + prior)),
            false => (0.0, 0.0),
        };
        let imagined = if prior > 0.0 { 1.0 - seen } else { 0.0 };
        match self.settings.signal {
            Signal::Variance => {
                let half = self.state.range.map_or(0.0, |(low, high)| (high - low) / 2.0);
                let relative = if half > 0.0 { mean / half / half } else { 0.0 };
                (seen * relative + imagined).sqrt()
            }
            Signal::Advantage => seen * mean + imagined,
        }
    }

    /// ρ of each arm; 1 if its tokens are unknown.
    fn lengths(&self) -> Vec<f64> {
        let known = |arm: &ArmState| (arm.completions > FADED).then(|| arm.tokens / arm.completions);
        let lengths: Vec<Option<f64>> = self.state.arms.iter().map(known).collect();
        let count = lengths.iter().flatten().count();
        let mean = lengths.iter().flatten().sum::<f64>() / count as f64;
        lengths.into_iter().map(|length| length.map_or(1.0, |length| length / mean)).collect()
    }
}

impl Policy for DumpPlus {
    fn weights(&self, view: View) -> Vec<f64> {
        let ucb: Vec<f64> = self.scores(view).iter().map(|score| score.value + score.bonus).collect();
        with_floor(softmax(&ucb, self.settings.temperature), self.settings.floor)
    }

    fn scores(&self, view: View) -> Vec<Score> {
        let Settings { in_flight, per_token, bonus, .. } = self.settings;
        let arms = &self.state.arms;
        assert_eq!(view.in_flight.len(), arms.len(), "this is a bug: groups in flight for another number of arms");
        let counted = |arm: usize| arms[arm].groups + if in_flight { view.in_flight[arm] as f64 } else { 0.0 };
        let evidence = 2.0 * (0..arms.len()).map(counted).sum::<f64>().max(1.0).ln_1p();
        let lengths = if per_token { self.lengths() } else { vec![1.0; arms.len()] };
        let score = |arm: usize| Score {
            value: self.signal(&arms[arm]) / lengths[arm],
            bonus: bonus * (evidence / (counted(arm) + 1.0)).sqrt(),
        };
        (0..arms.len()).map(score).collect()
    }

    fn observe(&mut self, group: &Observation, _view: View) {
        let State { range, arms } = &mut self.state;
        for reward in finite(&group.rewards) {
            let (low, high) = range.unwrap_or((reward, reward));
            *range = Some((low.min(reward), high.max(reward)));
        }
        let signal = match self.settings.signal {
            Signal::Variance => group.variance(),
            Signal::Advantage => group.mean_abs_advantage(),
        };
        let Some(signal) = signal else { return };
        for sum in arms.iter_mut().flat_map(ArmState::sums) {
            *sum *= self.settings.discount;
        }
        let arm = &mut arms[group.arm];
        arm.groups += 1.0;
        arm.signal = self.settings.memory * arm.signal + signal;
        arm.weight = self.settings.memory * arm.weight + 1.0;
        if group.tokens > 0 {
            arm.tokens += group.tokens as f64;
            arm.completions += group.rewards.len() as f64;
        }
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.state)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.state, state)
    }
}

impl ArmState {
    fn sums(&mut self) -> [&mut f64; 5] {
        [&mut self.groups, &mut self.signal, &mut self.weight, &mut self.tokens, &mut self.completions]
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    /// All parts off: DUMP with the variance as its signal.
    fn bare() -> Settings {
        Settings { discount: 1.0, memory: 1.0, in_flight: false, floor: 0.0, bonus: 1.0, ..Settings::default() }
    }

    fn curriculum(dump_plus: Settings) -> Curriculum {
        let config = CurriculumConfig { policy: "dump+".into(), dump_plus, ..CurriculumConfig::default() };
        Curriculum::new(&config, &mixture(3)).unwrap()
    }

    /// A group of arm `arm`, `right` of whose four completions have reward 3, and the others −1.
    fn observe(curriculum: &mut Curriculum, arm: usize, right: usize, tokens: u64) {
        let rewards = (0..4).map(|completion| if completion < right { 3.0 } else { -1.0 }).collect();
        let group = Observation::new(arm, rewards, vec![0.5, -0.25, 0.0, -0.25]);
        curriculum.observe(&Observation { tokens, ..group }, 0, &[0; 3]);
    }

    fn check(curriculum: &Curriculum, in_flight: [u64; 3], expected: [(f64, f64); 3]) {
        let scores = curriculum.scores(0, &in_flight);
        for (score, (value, bonus)) in scores.iter().zip(expected) {
            let near = (score.value - value).abs() < 1e-12 && (score.bonus - bonus).abs() < 1e-12;
            assert!(near, "{scores:?}, not {expected:?}");
        }
    }

    /// Of 4, k = 2 is p(1 − p) ≈ ⅓ and k = 4 is 0, so the mean is ⅙ and L = 2√⅙; h = 2.
    #[test]
    fn without_its_parts_it_is_dump_in_groups() {
        let mut curriculum = curriculum(bare());
        observe(&mut curriculum, 1, 2, 0);
        observe(&mut curriculum, 1, 4, 0);
        let bonus = |n: f64| (2.0 * 3.0_f64.ln() / (n + 1.0)).sqrt();
        let value = 2.0 * (1.0_f64 / 6.0).sqrt();
        check(&curriculum, [9, 9, 9], [(0.0, bonus(0.0)), (value, bonus(2.0)), (0.0, bonus(0.0))]);
        let odds = ((value + bonus(2.0) - bonus(0.0)) / 0.1).exp();
        assert!((curriculum.weights(0, &[0; 3])[1] - odds / (odds + 2.0)).abs() < 1e-12);
    }

    /// γ = ½, two groups of arm 0 and one of arm 1: n_0 = (1·½ + 1)·½ = ¾ and n_1 = 1, plus 1 and 2 in flight for
    /// arms 0 and 2; N = 4¾.
    #[test]
    fn counts_fade_and_the_mean_stays() {
        let mut curriculum =
            curriculum(Settings { discount: 0.5, signal: Signal::Advantage, in_flight: true, ..bare() });
        observe(&mut curriculum, 0, 2, 0);
        observe(&mut curriculum, 0, 2, 0);
        observe(&mut curriculum, 1, 2, 0);
        let bonus = |n: f64| (2.0 * 5.75_f64.ln() / (n + 1.0)).sqrt();
        check(&curriculum, [1, 0, 2], [(0.25, bonus(1.75)), (0.25, bonus(1.0)), (0.0, bonus(2.0))]);
    }

    /// μ = ½, and p(1 − p) ≈ ⅓, 0, ⅓: the mean is (¼·⅓ + ½·0 + ⅓)/(¼ + ½ + 1) = 5/21.
    #[test]
    fn the_signal_is_of_the_last_groups() {
        let mut curriculum = curriculum(Settings { memory: 0.5, bonus: 0.0, ..bare() });
        [2, 4, 2].into_iter().for_each(|right| observe(&mut curriculum, 1, right, 0));
        check(&curriculum, [0; 3], [(0.0, 0.0), (2.0 * (5.0_f64 / 21.0).sqrt(), 0.0), (0.0, 0.0)]);
    }

    /// One prior group of 1 and a seen one of 4·⅓: (4/3 + 1)/2 = 7/6.
    #[test]
    fn arms_start_optimistic_and_none_dies() {
        let mut curriculum = curriculum(Settings { prior: 1.0, floor: 0.3, bonus: 0.0, ..bare() });
        assert_eq!(curriculum.weights(0, &[0; 3]), [1.0 / 3.0; 3]);
        observe(&mut curriculum, 2, 2, 0);
        check(&curriculum, [0; 3], [(1.0, 0.0), (1.0, 0.0), ((7.0_f64 / 6.0).sqrt(), 0.0)]);
        (0..200).for_each(|_| observe(&mut curriculum, 0, 4, 0));
        let weights = curriculum.weights(0, &[0; 3]);
        assert!(weights[0] >= 0.1 && weights[0] < 0.101, "{weights:?}");
    }

    /// Completions of 100 and of 300 tokens are ½ and 3/2 of their mean; the length of the third arm is unknown.
    #[test]
    fn signal_per_token() {
        let mut curriculum = curriculum(Settings { per_token: true, bonus: 0.0, ..bare() });
        observe(&mut curriculum, 0, 2, 400);
        observe(&mut curriculum, 1, 2, 1200);
        observe(&mut curriculum, 2, 2, 0);
        let value = (4.0_f64 / 3.0).sqrt();
        check(&curriculum, [0; 3], [(2.0 * value, 0.0), (value / 1.5, 0.0), (value, 0.0)]);
    }

    /// Draws before any answer spread out. If groups in flight do not count, they all go to the same arm.
    #[test]
    fn a_draw_counts_at_once() {
        for (in_flight, spread) in [(true, true), (false, false)] {
            let curriculum = curriculum(Settings { in_flight, bonus: 1.0, ..Settings::default() });
            let weights = curriculum.weights(0, &[8, 0, 0]);
            assert_eq!(weights[0] < 0.02, spread, "{weights:?}");
        }
    }
}
