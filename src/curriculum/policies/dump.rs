//! DUMP: arms by how much the model can learn from them now, plus a bonus for arms that were rarely seen.
//!
//! Source: arXiv 2504.09710, Theorem 3.1 (learnability) and its UCB and softmax steps. L(d) = E|Â| bounds how far one
//! policy-gradient step on d can move the objective: largest where the success rate within a prompt's group is ½,
//! and 0 for solved and for hopeless prompts.

use super::super::arms::Arm;
use super::super::{Mixture, Policy, Score, View};
use super::{CurriculumConfig, NoSettings, softmax};
use crate::error::KeyError;

/// The paper's k, τ and unit of counts are keys of `[curriculum]` itself.
pub type Settings = NoSettings;

/// P(d) = softmax(UCB(d) / τ), with UCB(d) = L(d) + √(2 ln(N + 1) / (n_d + 1)).
///
/// L(d) is the mean |Â| of the last k rollouts of d, n_d the count of d since the start, and N = max(1, Σ n_d). Before
/// the first observation all arms have the same score, so P is uniform.
struct Dump {
    temperature: f64,
}

pub fn build(config: &CurriculumConfig, _mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    Ok(Box::new(Dump { temperature: config.temperature }))
}

impl Policy for Dump {
    fn weights(&self, view: View) -> Vec<f64> {
        let ucb: Vec<f64> = self.scores(view).iter().map(|score| score.value + score.bonus).collect();
        softmax(&ucb, self.temperature)
    }

    fn scores(&self, view: View) -> Vec<Score> {
        let evidence = 2.0 * ((view.arms.total() + 1) as f64).ln();
        let score = |arm: &Arm| Score { value: arm.window.mean(), bonus: (evidence / (arm.n + 1) as f64).sqrt() };
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
