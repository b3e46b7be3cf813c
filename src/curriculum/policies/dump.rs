//! DUMP: arms by how much the model can learn from them now, plus a bonus for arms that were rarely seen.
//!
//! Source: arXiv 2504.09710, Theorem 3.1 (learnability) and its UCB and softmax steps. L(d) = E|Â| bounds how far one
//! policy-gradient step on d can move the objective: largest where the success rate within a prompt's group is ½,
//! and 0 for solved and for hopeless prompts.

use serde::{Deserialize, Serialize};

use super::super::arms::{Arm, Arms};
use super::super::{Mixture, Policy, Score, View};
use super::{CurriculumConfig, not_negative, softmax};
use crate::error::KeyError;

/// `[curriculum.dump]`. The paper's k, τ and unit of counts are keys of `[curriculum]` itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many imagined rollouts with the mean |Â| of all arms are averaged into L(d); ≥ 0. Ours: one lucky group says less then.
    pub shrinkage: f64,
}

impl Default for Settings {
    /// As published: no shrinkage.
    fn default() -> Self {
        Self { shrinkage: 0.0 }
    }
}

/// P(d) = softmax(UCB(d) / τ), with UCB(d) = L(d) + √(2 ln(N + 1) / (n_d + 1)).
///
/// L(d) is the mean |Â| of the last k rollouts of d, n_d the count of d since the start, and N = max(1, Σ n_d). Before
/// the first observation all arms have the same score, so P is uniform.
///
/// With a shrinkage s above 0, L(d) is (c L + s L̄)/(c + s), where c rollouts of d are in the window, and L̄ is the mean |Â| over the
/// windows of all arms.
struct Dump {
    temperature: f64,
    shrinkage: f64,
}

pub fn build(config: &CurriculumConfig, _mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    not_negative("dump.shrinkage", config.dump.shrinkage)?;
    Ok(Box::new(Dump { temperature: config.temperature, shrinkage: config.dump.shrinkage }))
}

/// L̄: 0 before the first observation.
fn mean_of_all(arms: &Arms) -> f64 {
    let windows = || arms.as_slice().iter().map(|arm| &arm.window);
    let count = windows().map(|window| window.count()).sum::<usize>().max(1);
    windows().map(|window| window.mean() * window.count() as f64).sum::<f64>() / count as f64
}

impl Policy for Dump {
    fn weights(&self, view: View) -> Vec<f64> {
        let ucb: Vec<f64> = self.scores(view).iter().map(|score| score.value + score.bonus).collect();
        softmax(&ucb, self.temperature)
    }

    fn scores(&self, view: View) -> Vec<Score> {
        let evidence = 2.0 * ((view.arms.total() + 1) as f64).ln();
        let mean = (self.shrinkage > 0.0).then(|| mean_of_all(view.arms));
        let value = |arm: &Arm| match mean {
            None => arm.window.mean(),
            Some(mean) => {
                let seen = arm.window.count() as f64;
                (seen * arm.window.mean() + self.shrinkage * mean) / (seen + self.shrinkage)
            }
        };
        let score = |arm: &Arm| Score { value: value(arm), bonus: (evidence / (arm.n + 1) as f64).sqrt() };
        view.arms.as_slice().iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{CountUnit, Curriculum, Observation, draw};
    use super::super::tests::mixture;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const GROUP: usize = 16;

    fn dump(arms: usize, count: CountUnit) -> Curriculum {
        Curriculum::new(&CurriculumConfig { count, ..CurriculumConfig::default() }, &mixture(arms)).unwrap()
    }

    fn observe(curriculum: &mut Curriculum, arm: usize, advantages: Vec<f64>) {
        curriculum.observe(&Observation::new(arm, vec![0.0; advantages.len()], advantages), 0, &[0; 12]);
    }

    fn weights(curriculum: &Curriculum) -> Vec<f64> {
        curriculum.weights(0, &[0; 12])
    }

    #[test]
    fn uniform_before_the_first_update() {
        assert_eq!(weights(&dump(12, CountUnit::Rollouts)), vec![1.0 / 12.0; 12]);
    }

    #[test]
    fn scores_follow_the_formula() {
        for (count, n) in [(CountUnit::Rollouts, 4), (CountUnit::Groups, 2)] {
            let mut curriculum = dump(2, count);
            observe(&mut curriculum, 1, vec![0.5, -1.5]);
            observe(&mut curriculum, 1, vec![1.0, -2.0]);
            let bonus = |n_d: u64| (2.0 * ((n + 1) as f64).ln() / (n_d + 1) as f64).sqrt();
            let expected = [Score { value: 0.0, bonus: bonus(0) }, Score { value: 1.25, bonus: bonus(n) }];
            assert_eq!(curriculum.scores(0, &[0, 0]), expected);
            let odds = ((1.25 + bonus(n) - bonus(0)) / 0.1).exp();
            assert!((weights(&curriculum)[1] - odds / (1.0 + odds)).abs() < 1e-12);
        }
    }

    /// Arm 0: four of 1 and so on. Of all six rollouts the mean |Â| is (4·1 + 2·0.25)/6 = 0.75. With a shrinkage of 4, arm 0 has
    /// (4·1 + 4·0.75)/8, arm 1 has (2·0.25 + 4·0.75)/6, and the unseen arm 2 has the mean.
    #[test]
    fn shrinkage_pulls_little_evidence_to_the_mean() {
        let dump = Settings { shrinkage: 4.0 };
        let config = CurriculumConfig { dump, ..CurriculumConfig::default() };
        let mut curriculum = Curriculum::new(&config, &mixture(3)).unwrap();
        assert_eq!(curriculum.weights(0, &[0; 3]), [1.0 / 3.0; 3]);
        observe(&mut curriculum, 0, vec![1.0, -1.0, 1.0, -1.0]);
        observe(&mut curriculum, 1, vec![0.25, -0.25]);
        let values: Vec<f64> = curriculum.scores(0, &[0; 3]).iter().map(|score| score.value).collect();
        for (value, expected) in values.iter().zip([0.875, 3.5 / 6.0, 0.75]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// With |Â| ≤ 3 and 1,008 rollouts of each other arm, N = 11,088: an unseen arm scores √(2 ln 11,089) = 4.3,
        /// any other at most 3 + √(2 ln 11,089 / 1,009) = 3.14. The gap is above 11 τ.
        #[test]
        fn an_unseen_arm_comes_first_in_the_end(tops in vec(0.0..3.0, 11)) {
            let mut curriculum = dump(12, CountUnit::Rollouts);
            for (arm, &top) in tops.iter().enumerate() {
                (0..63).for_each(|_| observe(&mut curriculum, arm, vec![top; GROUP]));
            }
            prop_assert!(weights(&curriculum)[11] > 0.99);
        }

        /// While an arm is unseen after 100 groups, N ≥ 1,600 and it scores above √(2 ln 1,600) = 3.8. An arm seen once
        /// scores at most 0.97 more than its |Â| ≤ 3 and falls below 3.8 when it is seen again. So the unseen arms soon
        /// have most of the weight, and all 12 arms have been seen long before 400 groups.
        #[test]
        fn no_arm_starves(learnability in vec(0.0..3.0, 12), seed in any::<u64>()) {
            let mut curriculum = dump(12, CountUnit::Rollouts);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..400 {
                let arm = draw(&weights(&curriculum), &mut rng);
                observe(&mut curriculum, arm, vec![learnability[arm]; GROUP]);
            }
            prop_assert!(curriculum.arms().as_slice().iter().all(|arm| arm.n > 0));
        }
    }
}
