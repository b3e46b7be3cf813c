//! The curriculum: which distribution the next prompt comes from. Pure: no async, no tensors, no clock.
//!
//! An *arm* is one distribution (a `data_source`), named here by its index. A [`Policy`] turns what was observed of
//! the arms into sampling weights; [`draw`] turns weights into an arm. Every policy observes every finished training
//! group, also one that is dropped later, and never a validation group.
//!
//! - [`policies`]: the policies, one a file, and the list of them
//! - [`observation`]: what a finished group says · [`window`]: what is remembered of each arm
//!
//! `docs/curriculum.md` has the theory, and how to add a policy.

pub mod observation;
pub mod policies;
pub mod window;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::KeyError;
pub use observation::Observation;
pub use policies::CurriculumConfig;
use window::Arms;

/// What is drawn from, known before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// The name of each distribution, in the order of the arms; by convention from easy to hard.
    pub sources: Vec<String>,
    /// Rows of each distribution.
    pub sizes: Vec<usize>,
    /// Policy steps of the whole run.
    pub max_steps: u64,
    /// Groups that are trained on in one policy step.
    pub batch_size: usize,
}

impl Mixture {
    /// K.
    pub fn arms(&self) -> usize {
        self.sources.len()
    }
}

/// What a policy is told when it decides, beside what it has learnt by itself.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Policy steps that are made.
    pub step: u64,
    /// The past of each arm.
    pub arms: &'a Arms,
    /// Groups of each arm that were drawn and are not observed yet.
    pub in_flight: &'a [u64],
}

/// What a policy thinks of one arm, for metrics and reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What an arm is worth, in the policy's own unit; for DUMP the learnability L(d).
    pub value: f64,
    /// The exploration bonus that is added to it; 0 for a policy that has none.
    pub bonus: f64,
}

/// Decides how often each arm is drawn.
///
/// Invariants: [`weights`](Self::weights) has one entry an arm, all finite and ≥ 0, with sum 1, whatever was observed;
/// saving and loading changes no bit of any later weight, also when the state is written as JSON text in between.
pub trait Policy: Send {
    /// The probability of each arm for the next draw.
    fn weights(&self, view: View) -> Vec<f64>;

    /// One score an arm. A policy that has no opinion reports the learnability that DUMP would see.
    fn scores(&self, view: View) -> Vec<Score> {
        view.arms.as_slice().iter().map(|arm| Score { value: arm.window.mean(), bonus: 0.0 }).collect()
    }

    /// Learns from one group; `view.arms` has taken it in already. Numbers that are not finite are to be ignored.
    fn observe(&mut self, _group: &Observation, _view: View) {}

    /// Everything learnt, for a checkpoint; what `view` holds is kept elsewhere.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes back what [`save`](Self::save) gave; on an error, which says what does not fit, nothing has changed.
    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        if state.is_null() { Ok(()) } else { Err("the policy in the configuration keeps no state".into()) }
    }
}

/// What n_d and N of the exploration bonus count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountUnit {
    /// Completions, as the DUMP paper and its reference code do.
    #[default]
    Rollouts,
    /// Groups: one prompt is one unit of evidence. At G = 16 the bonus is about 3 times larger early on.
    Groups,
}

/// A policy and the past of the arms, which is kept in the same way for every policy.
pub struct Curriculum {
    policy: Box<dyn Policy>,
    arms: Arms,
}

/// What a checkpoint keeps of a curriculum.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CurriculumState {
    policy: String,
    learnt: serde_json::Value,
    arms: Arms,
}

impl Curriculum {
    /// The policy that `config` names, of which nothing is known yet.
    ///
    /// # Errors
    /// The key inside `[curriculum]` that does not fit, and what would.
    pub fn new(config: &CurriculumConfig, mixture: &Mixture) -> Result<Self, KeyError> {
        config.validate()?;
        let policy = config.entry()?.build(config, mixture)?;
        Ok(Self { policy, arms: Arms::new(mixture.arms(), config.window, config.count) })
    }

    /// The probability of each arm for the next draw, after `step` policy steps and with so many groups in flight.
    pub fn weights(&self, step: u64, in_flight: &[u64]) -> Vec<f64> {
        self.policy.weights(View { step, arms: &self.arms, in_flight })
    }

    /// One score an arm.
    pub fn scores(&self, step: u64, in_flight: &[u64]) -> Vec<Score> {
        self.policy.scores(View { step, arms: &self.arms, in_flight })
    }

    /// Learns from one group.
    pub fn observe(&mut self, group: &Observation, step: u64, in_flight: &[u64]) {
        self.arms.observe(group);
        self.policy.observe(group, View { step, arms: &self.arms, in_flight });
    }

    /// The past of the arms.
    pub fn arms(&self) -> &Arms {
        &self.arms
    }

    /// Everything learnt; `config` is the one it was made with.
    pub fn save(&self, config: &CurriculumConfig) -> CurriculumState {
        CurriculumState { policy: config.policy.clone(), learnt: self.policy.save(), arms: self.arms.clone() }
    }

    /// Goes on from what [`save`](Self::save) gave.
    ///
    /// # Errors
    /// Says what does not fit; nothing has changed then.
    pub fn load(&mut self, config: &CurriculumConfig, state: CurriculumState) -> Result<(), String> {
        if state.policy != config.policy {
            return Err(format!("curriculum.policy was {:?} when saved and is {:?} now", state.policy, config.policy));
        }
        self.arms.fits(&state.arms)?;
        self.policy.load(state.learnt)?;
        self.arms = state.arms;
        Ok(())
    }
}

/// Draws an arm by its weight: the first whose cumulative weight exceeds one uniform number in [0, 1).
///
/// `weights` are a policy's: not empty, ≥ 0, sum 1. An arm of weight 0 is never drawn. Takes one f64 from `rng`.
pub fn draw(weights: &[f64], rng: &mut impl Rng) -> usize {
    let uniform: f64 = rng.random();
    let mut cumulative = 0.0;
    let within = |weight: &f64| {
        cumulative += weight;
        uniform < cumulative
    };
    // Rounding can leave the sum a hair below 1: what lies beyond belongs to the last arm that can be drawn at all.
    weights
        .iter()
        .position(within)
        .or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
        .expect("this is a bug: a policy gave no arm a positive weight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn draws_follow_the_weights() {
        let weights = [0.0, 0.25, 0.0, 0.75, 0.0];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut drawn = [0_u32; 5];
        (0..40_000).for_each(|_| drawn[draw(&weights, &mut rng)] += 1);
        assert_eq!([drawn[0], drawn[2], drawn[4]], [0; 3]);
        // The standard deviation of the count is 87.
        assert!(drawn[1].abs_diff(10_000) < 400, "{drawn:?}");
    }

    #[test]
    fn a_sum_below_one_falls_to_the_last_positive_arm() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!((0..1000).all(|_| draw(&[0.0, 1e-300, 0.0], &mut rng) == 1));
    }
}
