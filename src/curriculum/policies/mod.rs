//! The policies: one per file, each with its formula and source, and the list of them.
//!
//! A new policy is one file in this folder and its name in the list below. Every file names its parts alike: `Settings`
//! is the table `[curriculum.<file name>]` of a configuration, `build` makes the policy, and what is learnt is its
//! `State`, with an `ArmState` per arm. `docs/curriculum.md` shows an example.

use serde::{Deserialize, Serialize};

use super::checks::{above_zero, not_negative, rate, within};
use super::rows::{Rows, greso, mopps};
use super::saved::{Learnt, from_json, load_into, same_arms, to_json};
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

/// For Thompson sampling without draws. Each arm's draw falls into a bin with these probabilities; all have as many bins. Returns the
/// probability of each arm that its draw is in the first bin of all. Of two in the same bin, each is first in half of the cases.
fn first_of(masses: &[Vec<f64>]) -> Vec<f64> {
    let arms = masses.len();
    let (mut later, mut below, mut weights) = (vec![1.0; arms], vec![1.0; arms], vec![0.0; arms]);
    for bin in 0..masses.first().map_or(0, Vec::len) {
        // `later` is the probability of a later bin, at the middle of this one. The product over all other arms is `below` times
        // `above`.
        later.iter_mut().zip(masses).for_each(|(later, mass)| *later -= mass[bin] / 2.0);
        let mut product = 1.0;
        for (below, later) in below.iter_mut().zip(&later) {
            *below = product;
            product *= later.max(0.0);
        }
        let mut above = 1.0;
        for arm in (0..arms).rev() {
            weights[arm] += masses[arm][bin] * below[arm] * above;
            above *= later[arm].max(0.0);
        }
        later.iter_mut().zip(masses).for_each(|(later, mass)| *later -= mass[bin] / 2.0);
    }
    normalised(weights)
}

/// (1 − ε) P + ε/K: no arm falls below ε/K.
fn with_floor(mut weights: Vec<f64>, floor: f64) -> Vec<f64> {
    let least = floor / weights.len().max(1) as f64;
    weights.iter_mut().for_each(|weight| *weight = (1.0 - floor) * *weight + least);
    weights
}

#[cfg(test)]
mod tests;
