//! The baseline: every arm equally often, whatever happens. Keeps the arms' past only to report it.

use super::window::{Arm, Arms};
use super::{ArmScore, Observation, Policy};

/// P(d) = 1/K.
#[derive(Debug, Clone)]
pub struct Uniform {
    arms: Arms,
}

impl Uniform {
    /// Over these arms.
    pub fn new(arms: Arms) -> Self {
        Self { arms }
    }
}

impl Policy for Uniform {
    fn weights(&self) -> Vec<f64> {
        let arms = self.arms.as_slice().len();
        vec![1.0 / arms as f64; arms]
    }

    fn observe(&mut self, group: &Observation) {
        self.arms.observe(group);
    }

    fn scores(&self) -> Vec<ArmScore> {
        let score = |arm: &Arm| ArmScore { learnability: arm.window.mean(), bonus: 0.0, n: arm.n };
        self.arms.as_slice().iter().map(score).collect()
    }

    fn save(&self) -> serde_json::Value {
        self.arms.save()
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        self.arms.load(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::CountUnit;
    use super::*;

    #[test]
    fn weights_stay_equal_and_the_past_is_reported() {
        let mut policy = Uniform::new(Arms::new(3, 2, CountUnit::Rollouts));
        policy.observe(&Observation { arm: 1, rewards: vec![1.0, 0.0], advantages: vec![1.0, -2.0] });
        assert_eq!(policy.weights(), vec![1.0 / 3.0; 3]);
        assert_eq!(policy.scores()[1], ArmScore { learnability: 1.5, bonus: 0.0, n: 2 });

        let mut copy = Uniform::new(Arms::new(3, 2, CountUnit::Rollouts));
        copy.load(policy.save()).unwrap();
        assert_eq!(copy.scores(), policy.scores());
    }
}
