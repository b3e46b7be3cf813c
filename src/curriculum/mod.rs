//! The curriculum: which distribution the next prompt comes from. Pure: no async, no tensors, no clock.
//!
//! An *arm* is one distribution (a `data_source`), named here by its index. A [`Policy`] turns what was observed of
//! the arms into sampling weights; [`draw`] turns weights into an arm. Every policy observes every finished training
//! group, also one that is dropped later, and never a validation group.
//!
//! - [`dump`]: learnability plus exploration bonus, softmax (arXiv 2504.09710)
//! - [`uniform`]: the baseline
//! - [`window`]: what is remembered of each arm
//!
//! A new policy is one file that implements [`Policy`], a [`PolicyKind`] and its line in [`build`].

pub mod dump;
pub mod uniform;
pub mod window;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// One finished group: G completions of one prompt of one arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Index of the arm that the prompt came from; below the number of arms that the policy was built with.
    pub arm: usize,
    /// Total reward of each of the G completions.
    pub rewards: Vec<f32>,
    /// Advantage of each of the G completions, in the same order.
    pub advantages: Vec<f32>,
}

/// What a policy thinks of one arm, for metrics and reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ArmScore {
    /// L(d): the mean |Â| over the window, in the advantages' unit; 0 before the first observation.
    pub learnability: f64,
    /// The exploration bonus that is added to it; 0 for a policy that has none.
    pub bonus: f64,
    /// Rollouts or groups seen since the start, as [`CurriculumConfig::count`] says.
    pub n: u64,
}

/// Decides how often each arm is drawn.
///
/// Invariants: [`weights`](Self::weights) has one entry an arm, all finite and ≥ 0, with sum 1, whatever was observed;
/// saving and loading changes no bit of any later weight, also when the state is written as JSON text in between.
pub trait Policy: Send {
    /// The probability of each arm for the next draw.
    fn weights(&self) -> Vec<f64>;
    /// Learns from one group. Advantages that are not finite are ignored.
    fn observe(&mut self, group: &Observation);
    /// One score an arm.
    fn scores(&self) -> Vec<ArmScore>;
    /// Everything learnt, for a checkpoint.
    fn save(&self) -> serde_json::Value;
    /// Takes back what [`save`](Self::save) gave; on an error, which says what does not fit, nothing has changed.
    fn load(&mut self, state: serde_json::Value) -> Result<(), String>;
}

/// The policies that a config can name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// [`dump::Dump`]
    #[default]
    Dump,
    /// [`uniform::Uniform`]
    Uniform,
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

/// The `[curriculum]` table of a config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// Which policy decides.
    pub policy: PolicyKind,
    /// τ of the softmax, in the advantages' unit; > 0. Lower is greedier.
    pub temperature: f64,
    /// k: how many rollouts of an arm its learnability is the mean of; ≥ 1.
    pub window: usize,
    /// What the bonus counts.
    pub count: CountUnit,
}

impl Default for CurriculumConfig {
    /// The values of the DUMP paper, arXiv 2504.09710: τ = 0.1, k = 300, counting rollouts.
    fn default() -> Self {
        Self { policy: PolicyKind::Dump, temperature: 0.1, window: 300, count: CountUnit::Rollouts }
    }
}

impl CurriculumConfig {
    /// Checks the numbers; an error is the key inside the table, and what is wrong with what would be right.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(("temperature", format!("must be a finite number above 0, got {}", self.temperature)));
        }
        if self.window == 0 {
            return Err(("window", "must be at least 1 rollout, got 0".to_string()));
        }
        Ok(())
    }
}

/// A fresh policy over `arms` arms. The config must be [valid](CurriculumConfig::validate).
pub fn build(config: &CurriculumConfig, arms: usize) -> Box<dyn Policy> {
    let arms = window::Arms::new(arms, config.window, config.count);
    match config.policy {
        PolicyKind::Dump => Box::new(dump::Dump::new(arms, config.temperature)),
        PolicyKind::Uniform => Box::new(uniform::Uniform::new(arms)),
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
    fn config_has_the_papers_defaults_and_refuses_unknown_keys() {
        assert_eq!(toml::from_str::<CurriculumConfig>("").unwrap(), CurriculumConfig::default());
        let config: CurriculumConfig = toml::from_str("policy = \"uniform\"\ncount = \"groups\"").unwrap();
        assert_eq!((config.policy, config.count), (PolicyKind::Uniform, CountUnit::Groups));
        assert!(toml::from_str::<CurriculumConfig>("tau = 0.1").is_err());
    }

    #[test]
    fn validate_names_the_key() {
        let default = CurriculumConfig::default();
        assert_eq!(default.validate(), Ok(()));
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = CurriculumConfig { temperature, ..default.clone() };
            assert_eq!(config.validate().unwrap_err().0, "temperature");
        }
        assert_eq!(CurriculumConfig { window: 0, ..default }.validate().unwrap_err().0, "window");
    }

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
