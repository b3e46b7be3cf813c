//! Importance sampling: what the replayed curriculum would have seen on average, estimated from recorded groups.
//!
//! A group that was drawn with probability p, and would have been drawn with probability q, has the weight w = q/p.
//! Means are self-normalised (Σ w·x / Σ w). The effective sample size (Σ w)² / Σ w² tells how many groups they rest on.
//! q is what the replayed curriculum gives after it has seen the same groups as the recorded one, with the same groups
//! in flight.
//!
//! The model is that of the recorded run. A record cannot tell what training on another mix would have made of it.

use serde::Serialize;

use crate::curriculum::Observation;

/// The means up to one step.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Importance {
    groups: u64,
    effective_sample_size: f64,
    /// 1 except for chance. Below 1, the record hardly ever drew what the replayed curriculum would draw, and the means
    /// leave those groups out.
    mean_weight: f64,
    /// Mean |Â|.
    learnability: f64,
    reward: f64,
}

/// Sums over the groups whose draw is recorded.
#[derive(Default)]
pub struct ImportanceSums {
    groups: u64,
    weight: f64,
    squares: f64,
    learnability: f64,
    reward: f64,
}

impl ImportanceSums {
    /// Takes in a group with its importance weight.
    pub fn add(&mut self, group: &Observation, weight: f64) {
        let (Some(learnability), Some(reward)) = (group.mean_abs_advantage(), group.mean_reward()) else { return };
        self.groups += 1;
        self.weight += weight;
        self.squares += weight * weight;
        self.learnability += weight * learnability;
        self.reward += weight * reward;
    }

    /// The means; none before the first group with a positive weight.
    pub fn importance(&self) -> Option<Importance> {
        (self.weight > 0.0).then(|| Importance {
            groups: self.groups,
            effective_sample_size: self.weight * self.weight / self.squares,
            mean_weight: self.weight / self.groups as f64,
            learnability: self.learnability / self.weight,
            reward: self.reward / self.weight,
        })
    }
}
