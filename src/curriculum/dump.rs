//! DUMP: arms by how much can be learnt from them now, plus a bonus for those rarely seen.
//!
//! Source: arXiv 2504.09710, Theorem 3.1 (learnability) and its UCB and softmax steps. L(d) = E|Â| bounds how far one
//! policy-gradient step on d can move the objective: largest where the success rate within a prompt's group is ½,
//! and 0 for solved and for hopeless prompts.

use super::window::{Arm, Arms};
use super::{ArmScore, Observation, Policy};

/// P(d) = softmax(UCB(d) / τ), with UCB(d) = L(d) + √(2 ln(N + 1) / (n_d + 1)).
///
/// L(d) is the mean |Â| of the last k rollouts of d, n_d what was seen of d since the start, and N = max(1, Σ n_d).
/// Before the first observation all arms score the same, so P is uniform.
#[derive(Debug, Clone)]
pub struct Dump {
    arms: Arms,
    temperature: f64,
}

impl Dump {
    /// Over these arms, with softmax temperature τ > 0, finite, in the advantages' unit.
    pub fn new(arms: Arms, temperature: f64) -> Self {
        Self { arms, temperature }
    }
}

impl Policy for Dump {
    fn weights(&self) -> Vec<f64> {
        let ucb: Vec<f64> = self.scores().iter().map(|score| score.learnability + score.bonus).collect();
        softmax(&ucb, self.temperature)
    }

    fn observe(&mut self, group: &Observation) {
        self.arms.observe(group);
    }

    fn scores(&self) -> Vec<ArmScore> {
        let evidence = 2.0 * ((self.arms.total() + 1) as f64).ln();
        let score = |arm: &Arm| ArmScore {
            learnability: arm.window.mean(),
            bonus: (evidence / (arm.n + 1) as f64).sqrt(),
            n: arm.n,
        };
        self.arms.as_slice().iter().map(score).collect()
    }

    fn save(&self) -> serde_json::Value {
        self.arms.save()
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        self.arms.load(state)
    }
}

/// exp(x/τ) / Σ exp(x/τ). The maximum is subtracted before the division: no exponent is above 0, so nothing overflows,
/// and the sum is at least 1.
fn softmax(scores: &[f64], temperature: f64) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = scores.iter().map(|score| ((score - max) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

#[cfg(test)]
mod tests {
    use super::super::{CountUnit, draw};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const GROUP: usize = 16;

    fn dump(arms: usize, count: CountUnit) -> Dump {
        Dump::new(Arms::new(arms, 300, count), 0.1)
    }

    fn group(arm: usize, advantages: Vec<f32>) -> Observation {
        Observation { arm, rewards: vec![0.0; advantages.len()], advantages }
    }

    #[test]
    fn uniform_before_the_first_update() {
        assert_eq!(dump(12, CountUnit::Rollouts).weights(), vec![1.0 / 12.0; 12]);
    }

    #[test]
    fn scores_follow_the_formula() {
        for (count, n) in [(CountUnit::Rollouts, 4), (CountUnit::Groups, 2)] {
            let mut policy = dump(2, count);
            policy.observe(&group(1, vec![0.5, -1.5]));
            policy.observe(&group(1, vec![1.0, -2.0]));
            let bonus = |n_d: u64| (2.0 * ((n + 1) as f64).ln() / (n_d + 1) as f64).sqrt();
            let expected = [
                ArmScore { learnability: 0.0, bonus: bonus(0), n: 0 },
                ArmScore { learnability: 1.25, bonus: bonus(n), n },
            ];
            assert_eq!(policy.scores(), expected);
            let odds = ((1.25 + bonus(n) - bonus(0)) / 0.1).exp();
            assert!((policy.weights()[1] - odds / (1.0 + odds)).abs() < 1e-12);
        }
    }

    #[test]
    fn softmax_survives_any_scale() {
        assert_eq!(softmax(&[1e308, 0.0], 1e-300), [1.0, 0.0]);
        assert_eq!(softmax(&[0.0, 0.0], f64::MIN_POSITIVE), [0.5, 0.5]);
        assert_eq!(softmax(&[], 0.1), [0.0; 0]);
    }

    fn any_groups() -> impl Strategy<Value = Vec<(usize, Vec<f32>)>> {
        vec((0_usize..5, vec(proptest::num::f32::ANY, 0..20)), 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn weights_are_a_distribution(groups in any_groups(), temperature in 1e-12_f64..1e12) {
            for count in [CountUnit::Rollouts, CountUnit::Groups] {
                let mut policy = Dump::new(Arms::new(5, 30, count), temperature);
                for (arm, advantages) in groups.clone() {
                    policy.observe(&group(arm, advantages));
                    let weights = policy.weights();
                    prop_assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
                    prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                }
            }
        }

        #[test]
        fn a_resumed_policy_gives_the_same_bits(before in any_groups(), after in any_groups()) {
            let mut policy = Dump::new(Arms::new(5, 30, CountUnit::Groups), 0.1);
            before.into_iter().for_each(|(arm, advantages)| policy.observe(&group(arm, advantages)));
            let mut resumed = Dump::new(Arms::new(5, 30, CountUnit::Groups), 0.1);
            let text = policy.save().to_string();
            resumed.load(serde_json::from_str(&text).unwrap()).unwrap();
            for (arm, advantages) in after {
                let bits = |policy: &Dump| policy.weights().into_iter().map(f64::to_bits).collect::<Vec<_>>();
                prop_assert_eq!(bits(&policy), bits(&resumed));
                policy.observe(&group(arm, advantages.clone()));
                resumed.observe(&group(arm, advantages));
            }
        }

        /// With |Â| ≤ 3 and 1,008 rollouts of each other arm, N = 11,088: an unseen arm scores √(2 ln 11,089) = 4.3,
        /// any other at most 3 + √(2 ln 11,089 / 1,009) = 3.14. The gap is above 11 τ.
        #[test]
        fn an_unseen_arm_comes_first_in_the_end(tops in vec(0.0_f32..3.0, 11)) {
            let mut policy = dump(12, CountUnit::Rollouts);
            for (arm, &top) in tops.iter().enumerate() {
                (0..63).for_each(|_| policy.observe(&group(arm, vec![top; GROUP])));
            }
            prop_assert!(policy.weights()[11] > 0.99);
        }

        /// While an arm is unseen after 100 groups, N ≥ 1,600 and it scores above √(2 ln 1,600) = 3.8. An arm seen once
        /// scores at most 0.97 more than its |Â| ≤ 3 and, seen again, falls below: so the unseen ones soon hold most of
        /// the weight, and 12 arms are through long before 400 groups.
        #[test]
        fn no_arm_starves(learnability in vec(0.0_f32..3.0, 12), seed in any::<u64>()) {
            let mut policy = dump(12, CountUnit::Rollouts);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..400 {
                let arm = draw(&policy.weights(), &mut rng);
                policy.observe(&group(arm, vec![learnability[arm]; GROUP]));
            }
            prop_assert!(policy.scores().iter().all(|score| score.n > 0));
        }
    }
}
