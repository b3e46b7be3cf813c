//! What the curriculum remembers of each arm: the last k values of |Â|, and how much was seen since the start.

use serde::{Deserialize, Serialize};

use super::observation::finite;
use super::window::Window;
use super::{CountUnit, Observation};

/// The past of one arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// n_d: rollouts or groups seen since the start.
    pub n: u64,
    /// |Â| of the last k rollouts.
    pub window: Window,
}

/// The past of all arms. It is kept under every policy, so that runs of different policies can be compared arm by arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arms {
    count: CountUnit,
    arms: Vec<Arm>,
}

impl Arms {
    /// `arms` arms that were never seen, each with a window of `window` ≥ 1 rollouts.
    pub fn new(arms: usize, window: usize, count: CountUnit) -> Self {
        Self { count, arms: vec![Arm { n: 0, window: Window::new(window) }; arms] }
    }

    /// Adds one group. An advantage that is not finite is neither averaged nor counted; nor is a group without any
    /// finite one.
    ///
    /// # Panics
    /// If the arm does not exist or the group's two lists differ in length: both are bugs.
    pub fn observe(&mut self, group: &Observation) {
        assert_eq!(
            group.rewards.len(),
            group.advantages.len(),
            "this is a bug: a group has one reward and one advantage per completion"
        );
        let arm = &mut self.arms[group.arm];
        let mut rollouts = 0;
        for advantage in finite(&group.advantages) {
            arm.window.push(advantage.abs());
            rollouts += 1;
        }
        arm.n += match self.count {
            CountUnit::Rollouts => rollouts,
            CountUnit::Groups => rollouts.min(1),
        };
    }

    /// The arms in the order of their indices.
    pub fn as_slice(&self) -> &[Arm] {
        &self.arms
    }

    /// N: the sum of n_d over all arms, at least 1.
    pub fn total(&self) -> u64 {
        self.arms.iter().map(|arm| arm.n).sum::<u64>().max(1)
    }

    /// Checks that `saved` has the same arms, window and count.
    ///
    /// # Errors
    /// Says what differs.
    pub fn fits(&self, saved: &Self) -> Result<(), String> {
        same("the number of sources", saved.arms.len(), self.arms.len())?;
        same("curriculum.count", saved.count, self.count)?;
        for (saved, own) in saved.arms.iter().zip(&self.arms) {
            same("curriculum.window", saved.window.capacity(), own.window.capacity())?;
        }
        Ok(())
    }
}

/// Refuses a checkpoint that disagrees with the configuration.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, saved: T, configured: T) -> Result<(), String> {
    if saved == configured { Ok(()) } else { Err(format!("{what} was {saved:?} when saved and is {configured:?} now")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_advantages_count() {
        let group = |advantages: &[f64]| Observation::new(0, vec![0.0; advantages.len()], advantages.to_vec());
        for (count, expected) in [(CountUnit::Rollouts, 2), (CountUnit::Groups, 1)] {
            let mut arms = Arms::new(1, 10, count);
            arms.observe(&group(&[f64::NAN, f64::INFINITY]));
            assert_eq!((arms.as_slice()[0].n, arms.total()), (0, 1));
            arms.observe(&group(&[-1.0, f64::NAN, 2.0]));
            assert_eq!((arms.as_slice()[0].n, arms.as_slice()[0].window.mean()), (expected, 1.5));
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused() {
        let refuse = |other: Arms, word: &str| {
            let problem = Arms::new(2, 3, CountUnit::Rollouts).fits(&other).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        };
        refuse(Arms::new(3, 3, CountUnit::Rollouts), "sources");
        refuse(Arms::new(2, 4, CountUnit::Rollouts), "window");
        refuse(Arms::new(2, 3, CountUnit::Groups), "count");
    }
}
