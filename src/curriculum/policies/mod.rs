//! The policies: one per file, each with its formula and source, and the list of them.
//!
//! A new policy is one file in this folder and its name in the list below. Every file names its parts alike: `Settings`
//! is the table `[curriculum.<file name>]` of a configuration, `build` makes the policy, and what is learnt is its
//! `State`, with an `ArmState` per arm. `docs/curriculum.md` shows an example.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rows::{Rows, greso, mopps};
use super::{CountUnit, Mixture, Policy};
use crate::error::KeyError;

/// Makes a policy over a mixture. An error names the key inside `[curriculum]` that does not fit, and what would fit.
type Build = fn(&CurriculumConfig, &Mixture) -> Result<Box<dyn Policy>, KeyError>;

/// A policy under the name that a configuration uses.
pub struct Entry {
    pub name: &'static str,
    build: Build,
}

impl Entry {
    /// The policy over this mixture.
    ///
    /// # Errors
    /// The key inside `[curriculum]` that does not fit, and what would fit.
    pub fn build(&self, config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
        (self.build)(config, mixture)
    }
}

macro_rules! policies {
    ($($name:ident)*) => {
        $(pub mod $name;)*

        /// Every policy that a configuration can name.
        pub const POLICIES: &[Entry] = &[$(Entry { name: stringify!($name), build: $name::build }),*];

        /// The `[curriculum]` table of a configuration.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct CurriculumConfig {
            /// Which policy decides; see [`POLICIES`].
            pub policy: String,
            /// τ of DUMP's softmax, in the unit of the advantages; > 0. Lower is greedier.
            pub temperature: f64,
            /// k: the learnability of an arm is the mean over its last k rollouts; ≥ 1.
            pub window: usize,
            /// What n_d counts.
            pub count: CountUnit,
            /// Policies that count successes take a completion for one if its reward is above this.
            pub success_above: f64,
            /// So many steps at first draw all arms equally often, whatever the policy says.
            pub warmup_steps: u64,
            /// How rows are chosen inside a distribution.
            pub rows: Rows,
            pub mopps: mopps::Settings,
            pub greso: greso::Settings,
            $(pub $name: $name::Settings,)*
        }

        impl Default for CurriculumConfig {
            /// The values of the DUMP paper, arXiv 2504.09710: τ = 0.1, k = 300, counting rollouts.
            fn default() -> Self {
                Self {
                    policy: "dump".into(),
                    temperature: 0.1,
                    window: 300,
                    count: CountUnit::Rollouts,
                    success_above: 0.0,
                    warmup_steps: 0,
                    rows: Rows::Uniform,
                    mopps: mopps::Settings::default(),
                    greso: greso::Settings::default(),
                    $($name: $name::Settings::default(),)*
                }
            }
        }
    };
}

policies!(
    uniform size_proportional fixed_mix easy_to_hard dump dump_plus pac tac sec learnability learning_progress adarft thompson
    exp3s
);

impl CurriculumConfig {
    /// The entry of the named policy; `dump+` is another name of `dump_plus`.
    ///
    /// # Errors
    /// If there is no such policy; lists the names of all.
    pub fn entry(&self) -> Result<&'static Entry, KeyError> {
        let name = self.policy.replace('+', "_plus");
        POLICIES.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let known: Vec<&str> = POLICIES.iter().map(|entry| entry.name).collect();
            KeyError::new("policy", format!("there is no policy {:?}; known: {}", self.policy, known.join(", ")))
        })
    }

    /// Whether the policy learns from gradients, which the trainer then takes apart by distribution.
    pub fn needs_gradients(&self) -> bool {
        self.policy == "tac"
    }

    /// Checks what does not depend on the data. An error names the key inside the table, and what would be right.
    pub fn check(&self) -> Result<(), KeyError> {
        self.entry()?;
        above_zero("temperature", self.temperature)?;
        if !self.success_above.is_finite() {
            return Err(KeyError::new("success_above", format!("must be a finite number, got {}", self.success_above)));
        }
        if self.window == 0 {
            return Err(KeyError::new("window", "must be at least 1 rollout, got 0"));
        }
        Ok(())
    }
}

/// The settings of a policy without settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Refuses a number that is not finite or not above 0.
fn above_zero(key: &str, value: f64) -> Result<(), KeyError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be a finite number above 0, got {value}"))),
    }
}

/// Refuses a number that is not finite or below 0.
fn not_negative(key: &str, value: f64) -> Result<(), KeyError> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be a finite number of at least 0, got {value}"))),
    }
}

/// Refuses a number outside `low` to `high`.
fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), KeyError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be from {low} to {high}, got {value}"))),
    }
}

/// Refuses a rate outside 0 (exclusive) to 1 (inclusive).
pub(super) fn rate(key: &str, value: f64) -> Result<(), KeyError> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(()),
        false => Err(KeyError::new(key, format!("must be above 0 and at most 1, got {value}"))),
    }
}

/// exp(x/τ) / Σ exp(x/τ). The maximum is subtracted before the division. So no exponent is above 0, nothing overflows,
/// and the sum is at least 1.
fn softmax(scores: &[f64], temperature: f64) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    normalised(scores.iter().map(|score| ((score - max) / temperature).exp()).collect())
}

/// The weights divided by their sum; equal weights if the sum is 0.
fn normalised(mut weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let equal = 1.0 / weights.len().max(1) as f64;
    weights.iter_mut().for_each(|weight| *weight = if sum > 0.0 { *weight / sum } else { equal });
    weights
}

/// (1 − ε) P + ε/K: no arm falls below ε/K.
fn with_floor(mut weights: Vec<f64>, floor: f64) -> Vec<f64> {
    let least = floor / weights.len().max(1) as f64;
    weights.iter_mut().for_each(|weight| *weight = (1.0 - floor) * *weight + least);
    weights
}

/// Everything a policy has learnt, as it is saved. JSON text keeps every bit of its numbers.
trait Learnt: Serialize + DeserializeOwned {
    /// The number of arms that it is about.
    fn arms(&self) -> usize;
}

/// One entry per arm and nothing else.
impl<T: Serialize + DeserializeOwned> Learnt for Vec<T> {
    fn arms(&self) -> usize {
        self.len()
    }
}

/// For [`Policy::save`] and its like.
pub(super) fn to_json(learnt: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(learnt).expect("this is a bug: numbers and lists always serialise")
}

/// For [`Policy::load`] and its like.
pub(super) fn from_json<T: DeserializeOwned>(saved: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(saved).map_err(|error| format!("not this policy's state: {error}"))
}

/// Refuses a saved state of another number of arms.
fn same_arms<T: Learnt>(saved: &T, own: &T) -> Result<(), String> {
    match saved.arms() == own.arms() {
        true => Ok(()),
        false => Err(format!("the state is of {} distributions, the data has {}", saved.arms(), own.arms())),
    }
}

/// For [`Policy::load`]: replaces `own` by the saved state. On an error nothing has changed.
fn load_into<T: Learnt>(own: &mut T, saved: serde_json::Value) -> Result<(), String> {
    let saved = from_json(saved)?;
    same_arms(&saved, own)?;
    *own = saved;
    Ok(())
}

#[cfg(test)]
mod tests;
