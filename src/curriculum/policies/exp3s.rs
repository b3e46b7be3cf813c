//! EXP3.S, a bandit without assumptions about how the value of an arm changes: exponential weights with a lower bound.
//!
//! Source: Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM J. Comput.
//! 32(1), 2002, section 8; used for curricula in arXiv 1704.03003 (in another parametrisation, where ε is γ here).
//!
//! P(d) = (1 − γ) w_d / Σ w + γ/K. A group of arm d with value x in [0, 1], drawn with probability p, gives x̂ = x/p
//! for d and 0 for all others; w_e ← w_e exp(γ x̂_e/K) + (eα/K) Σ w.
//!
//! - x is the mean |Â|. With std normalisation it is below 1, because it is at most √(Σ Â²/G) = √((G − 1)/G). Without,
//!   it can exceed 1: then it is divided by the largest value seen so far.
//! - p is the probability of the arm when it was drawn, which under delay differs from the present one. If it is
//!   unknown, p is the present one. p is never taken below γ/K, the smallest probability of this policy, so γx̂/K is at
//!   most 1.
//! - w is stored as ln w, and the largest is 0.

use std::f64::consts::E;

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Observation, Policy, Score, View};
use super::{CurriculumConfig, Learnt, load_into, rate, softmax, to_json, with_floor, within};
use crate::error::KeyError;

/// `[curriculum.exp3s]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// γ, the share of the draws that is spread evenly over all arms, and the learning rate; above 0, at most 1.
    pub gamma: f64,
    /// α, the share of all weight that each group redistributes evenly; from 0, which is Exp3, to 1.
    pub alpha: f64,
}

impl Default for Settings {
    /// Our choice, near the optimum that the source proves for one best arm throughout, T = 1,600 groups and K = 12
    /// arms: α = 1/T = 0.0006 and γ = √(K(ln(KT) + e)/((e − 1)T)) = 0.23.
    fn default() -> Self {
        Self { gamma: 0.2, alpha: 0.001 }
    }
}

struct Exp3s {
    settings: Settings,
    state: State,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The largest mean |Â| seen, at least 1.
    largest: f64,
    arms: Vec<ArmState>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmState {
    /// ln w, at most 0.
    log_weight: f64,
}

impl Learnt for State {
    fn arms(&self) -> usize {
        self.arms.len()
    }
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.exp3s.clone();
    rate("exp3s.gamma", settings.gamma)?;
    within("exp3s.alpha", settings.alpha, 0.0, 1.0)?;
    Ok(Box::new(Exp3s { settings, state: State { largest: 1.0, arms: vec![ArmState::default(); mixture.arms()] } }))
}

impl Exp3s {
    /// w / Σ w.
    fn shares(&self) -> Vec<f64> {
        let logs: Vec<f64> = self.state.arms.iter().map(|arm| arm.log_weight).collect();
        softmax(&logs, 1.0)
    }
}

impl Policy for Exp3s {
    fn weights(&self, _view: View) -> Vec<f64> {
        with_floor(self.shares(), self.settings.gamma)
    }

    /// w / Σ w: the weights without the evenly spread share.
    fn scores(&self, _view: View) -> Vec<Score> {
        self.shares().into_iter().map(|value| Score { value, bonus: 0.0 }).collect()
    }

    fn observe(&mut self, group: &Observation, view: View) {
        let Some(signal) = group.mean_abs_advantage() else { return };
        let Settings { gamma, alpha } = self.settings;
        let present = self.weights(view)[group.arm];
        let State { largest, arms } = &mut self.state;
        *largest = largest.max(signal);
        let least = gamma / arms.len() as f64;
        let drawn = if group.probability > 0.0 { group.probability } else { present };
        let growth = least * (signal / *largest) / drawn.max(least);

        let sum: f64 = arms.iter().map(|arm| arm.log_weight.exp()).sum();
        let shared = (E * alpha / arms.len() as f64 * sum).ln();
        arms[group.arm].log_weight += growth;
        arms.iter_mut().for_each(|arm| arm.log_weight = log_sum(arm.log_weight, shared));
        let most = arms.iter().map(|arm| arm.log_weight).fold(f64::NEG_INFINITY, f64::max);
        arms.iter_mut().for_each(|arm| arm.log_weight -= most);
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.state)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.state, state)
    }
}

/// ln(eᵃ + eᵇ); a must be finite.
fn log_sum(a: f64, b: f64) -> f64 {
    a.max(b) + (-(a - b).abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    /// Over two arms with γ = ½ and α = 0.1, from w = (1, 1): x = ½, drawn at p = ½ or ¼, grows w_1 by
    /// exp(½·½/p/2) = e^¼ or e^½, and both get e·0.1/2·2 = 0.1e.
    #[test]
    fn weights_follow_the_formula() {
        for (probability, growth) in [(0.0, 0.25_f64), (0.5, 0.25), (0.25, 0.5), (1e-9, 0.5)] {
            let exp3s = Settings { gamma: 0.5, alpha: 0.1 };
            let config = CurriculumConfig { policy: "exp3s".into(), exp3s, ..CurriculumConfig::default() };
            let mut curriculum = Curriculum::new(&config, &mixture(2)).unwrap();
            let group = Observation::new(1, vec![0.0; 2], vec![0.5, -0.5]);
            curriculum.observe(&Observation { probability, ..group }, 0, &[0; 2]);
            let (first, second) = (1.0 + 0.1 * E, growth.exp() + 0.1 * E);
            let weights = curriculum.weights(0, &[0; 2]);
            assert!((weights[1] - (0.25 + 0.5 * second / (first + second))).abs() < 1e-12, "{weights:?}");
        }
    }

    #[test]
    fn weights_never_overflow() {
        for alpha in [0.0, 0.001] {
            let exp3s = Settings { alpha, ..Settings::default() };
            let config = CurriculumConfig { policy: "exp3s".into(), exp3s, ..CurriculumConfig::default() };
            let mut curriculum = Curriculum::new(&config, &mixture(4)).unwrap();
            let group = Observation::new(2, vec![0.0; 2], vec![f64::from(f32::MAX), -f64::from(f32::MAX)]);
            (0..100_000).for_each(|_| curriculum.observe(&group, 0, &[0; 4]));
            let weights = curriculum.weights(0, &[0; 4]);
            assert!(weights[2] > 0.8 && weights[0] >= 0.05 - 1e-12, "{weights:?}");
        }
    }
}
