//! The curriculum: which distribution the next prompt comes from. Pure: no async, no tensors, no clock.
//!
//! An *arm* is one distribution (a `data_source`), identified by its index. A [`Policy`] turns what was observed of
//! the arms into sampling weights; [`draw`] turns weights into an arm. Every policy observes every finished training
//! group, including groups that are dropped later, but no validation group.
//!
//! - [`policies`]: the policies, one per file, and the list of them · [`rows`]: which row of the chosen arm is drawn
//! - `checks`: ranges of settings · `saved`: what was learnt, in a checkpoint
//! - [`observation`]: what a finished group says · [`arms`]: what is remembered of each arm · [`window`]: a mean over
//!   the last values
//!
//! `docs/curriculum.md` has the theory, and how to add a policy.

pub mod arms;
mod checks;
pub mod observation;
pub mod policies;
pub mod rows;
mod saved;
pub mod window;

use std::collections::BTreeMap;

use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use crate::error::KeyError;
use arms::Arms;
pub use observation::Observation;
pub use policies::CurriculumConfig;
use rows::{Candidates, RowChoice, Rows};

/// The distributions to draw from, known before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// The name of each distribution, in the order of the arms; by convention from easy to hard.
    pub sources: Vec<String>,
    /// Rows of each distribution.
    pub sizes: Vec<usize>,
    /// Policy steps of the whole run.
    pub max_steps: u64,
    /// Groups that one policy step trains on.
    pub batch_size: usize,
}

impl Mixture {
    /// K.
    pub fn arms(&self) -> usize {
        self.sources.len()
    }
}

/// A sketch of the gradient of each arm that a step trained on: its direction counts. All have the same length.
pub type Gradients = BTreeMap<usize, Vec<f32>>;

/// What a policy is told when it decides, in addition to what it has learnt itself.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Policy steps that have been made.
    pub step: u64,
    /// The past of each arm.
    pub arms: &'a Arms,
    /// Groups of each arm that were drawn but not observed yet.
    pub in_flight: &'a [u64],
}

/// What a policy thinks of one arm, for metrics and reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The value of an arm in the policy's own unit; for DUMP the learnability L(d).
    pub value: f64,
    /// The exploration bonus that is added to it; 0 for a policy without one.
    pub bonus: f64,
}

/// Decides how often each arm is drawn.
///
/// Invariants: [`weights`](Self::weights) has one entry per arm, all finite and ≥ 0, with sum 1, after any
/// observations. Saving and loading changes no bit of any later weight, even if the state is written as JSON text in
/// between.
pub trait Policy: Send {
    /// The probability of each arm for the next draw.
    fn weights(&self, view: View) -> Vec<f64>;

    /// One score per arm. A policy without scores of its own reports the learnability that DUMP would see.
    fn scores(&self, view: View) -> Vec<Score> {
        view.arms.as_slice().iter().map(|arm| Score { value: arm.window.mean(), bonus: 0.0 }).collect()
    }

    /// Learns from one group, which `view.arms` already contains. Ignores numbers that are not finite.
    fn observe(&mut self, _group: &Observation, _view: View) {}

    /// Learns from the gradients of a step. Only for policies that [`CurriculumConfig::needs_gradients`] names.
    fn observe_gradients(&mut self, _gradients: &Gradients) {}

    /// Everything that the policy has learnt, for a checkpoint. What `view` holds is saved elsewhere.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Restores what [`save`](Self::save) gave. An error says what does not fit; then nothing has changed.
    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        if state.is_null() { Ok(()) } else { Err("the policy in the configuration keeps no state".into()) }
    }
}

/// The unit of n_d and N in the exploration bonus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountUnit {
    /// Completions, as the DUMP paper and its reference code do.
    #[default]
    Rollouts,
    /// Groups: one prompt is one unit of evidence. At G = 16 the early bonus is about 3 times larger.
    Groups,
}

/// A policy, a choice of rows, and the past of the arms, which is kept in the same way under every policy.
pub struct Curriculum {
    policy: Box<dyn Policy>,
    rows: Box<dyn RowChoice>,
    warmup_steps: u64,
    arms: Arms,
}

/// The part of a curriculum that a checkpoint keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CurriculumState {
    policy: String,
    learnt: serde_json::Value,
    arms: Arms,
    #[serde(default)]
    rows: Rows,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    rows_learnt: serde_json::Value,
}

impl Curriculum {
    /// A curriculum with the policy that `config` names. It has seen nothing yet.
    ///
    /// # Errors
    /// The key inside `[curriculum]` that does not fit, and what would fit.
    pub fn new(config: &CurriculumConfig, mixture: &Mixture) -> Result<Self, KeyError> {
        config.check()?;
        let policy = config.entry()?.build(config, mixture)?;
        let rows = rows::build(config, mixture)?;
        Ok(Self {
            policy,
            rows,
            warmup_steps: config.warmup_steps,
            arms: Arms::new(mixture.arms(), config.window, config.count),
        })
    }

    /// The probability of each arm for the next draw, after `step` policy steps and with these groups of each arm in
    /// flight.
    pub fn weights(&self, step: u64, in_flight: &[u64]) -> Vec<f64> {
        if step < self.warmup_steps {
            let arms = self.arms.as_slice().len();
            return vec![1.0 / arms as f64; arms];
        }
        self.policy.weights(View { step, arms: &self.arms, in_flight })
    }

    /// One score per arm.
    pub fn scores(&self, step: u64, in_flight: &[u64]) -> Vec<Score> {
        self.policy.scores(View { step, arms: &self.arms, in_flight })
    }

    /// The row to draw of an arm.
    pub fn draw_row(&self, from: Candidates, rng: &mut dyn RngCore) -> usize {
        self.rows.draw(from, rng)
    }

    /// The success rate that is expected of a row, or of one that was never seen, if the choice of rows estimates it.
    pub fn expected(&self, arm: usize, row: Option<usize>) -> Option<f64> {
        self.rows.expected(arm, row)
    }

    /// Learns from one group.
    pub fn observe(&mut self, group: &Observation, step: u64, in_flight: &[u64]) {
        self.arms.observe(group);
        self.policy.observe(group, View { step, arms: &self.arms, in_flight });
        self.rows.observe(group);
    }

    /// Learns from the gradients of a step.
    pub fn observe_gradients(&mut self, gradients: &Gradients) {
        self.policy.observe_gradients(gradients);
    }

    /// The past of the arms.
    pub fn arms(&self) -> &Arms {
        &self.arms
    }

    /// The state to save; `config` must be the one that the curriculum was made with.
    pub fn save(&self, config: &CurriculumConfig) -> CurriculumState {
        CurriculumState {
            policy: config.policy.clone(),
            learnt: self.policy.save(),
            arms: self.arms.clone(),
            rows: config.rows,
            rows_learnt: self.rows.save(),
        }
    }

    /// Continues from what [`save`](Self::save) gave.
    ///
    /// # Errors
    /// Says what does not fit; then nothing has changed.
    pub fn load(&mut self, config: &CurriculumConfig, state: CurriculumState) -> Result<(), String> {
        if state.policy != config.policy {
            return Err(format!("curriculum.policy was {:?} when saved and is {:?} now", state.policy, config.policy));
        }
        if state.rows != config.rows {
            return Err(format!("curriculum.rows was {} when saved and is {} now", state.rows, config.rows));
        }
        self.arms.fits(&state.arms)?;
        let before = self.rows.save();
        self.rows.load(state.rows_learnt)?;
        if let Err(problem) = self.policy.load(state.learnt) {
            self.rows.load(before)?;
            return Err(problem);
        }
        self.arms = state.arms;
        Ok(())
    }
}

/// Draws an arm by its weight: the first arm whose cumulative weight exceeds one uniform number in [0, 1).
///
/// `weights` come from a policy: not empty, all ≥ 0, with sum 1. An arm of weight 0 is never drawn. Takes one f64 from
/// `rng`.
pub fn draw(weights: &[f64], rng: &mut impl Rng) -> usize {
    let uniform: f64 = rng.random();
    let mut cumulative = 0.0;
    let within = |weight: &f64| {
        cumulative += weight;
        uniform < cumulative
    };
    // Rounding can leave the sum slightly below 1. A number above the sum belongs to the last arm with a positive
    // weight.
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
