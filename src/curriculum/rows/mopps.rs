//! The row whose success rate is probably nearest to ½: model predictive prompt selection (MoPPS, arXiv 2507.04632).
//!
//! A row's success rate has a Beta(α, β) belief. A group of which k of G completions succeed changes it to
//! α ← λα + (1 − λ)α₀ + k and β ← λβ + (1 − λ)β₀ + G − k: the older a group, the less it counts. To draw a row, `candidates` rows are
//! taken at random, a rate p is drawn from the belief of each (Thompson sampling), and the row with the smallest |p − ½| is drawn.
//! There E|Â| is largest.
//!
//! Ours: the paper starts every row with α₀ = β₀ = 1. Here a row that was never seen inherits what is known of its distribution:
//! α₀ = 2p̄ and β₀ = 2(1 − p̄), where p̄ is the success rate of the distribution's last groups (and of one imagined group of two
//! completions, one of them right). So α₀ + β₀ = 2, as in the paper, and a hopeless distribution has hopeless rows. And a row that is
//! drawn already and not trained on yet is passed over.

use rand::{Rng, RngCore};
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

use super::super::checks::rate;
use super::super::saved::{from_json, same_arms, to_json};
use super::{Candidates, CurriculumConfig, Memory, Mixture, Observation, RowChoice, Seen};
use crate::error::KeyError;

/// α₀ + β₀.
const PRIOR: f64 = 2.0;

/// After a group of a distribution, this share remains of what is remembered of its earlier groups: about the last 20 count.
const MEMORY: f64 = 0.95;

/// No parameter of a belief is below this: a Beta distribution needs them above 0.
const LEAST: f64 = 0.01;

/// `[curriculum.mopps]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// λ: what remains of a row's earlier groups when the row is seen again; above 0, at most 1.
    pub discount: f64,
    /// How many rows are compared at a draw; at least 1, which is uniform.
    pub candidates: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { discount: 0.5, candidates: 16 }
    }
}

struct Mopps {
    settings: Settings,
    success_above: f64,
    rows: Memory<Evidence>,
    arms: Vec<Pool>,
}

/// α − α₀ and β − β₀ of a row. In f32: 8 bytes a row, and no count is so large that it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Evidence(f32, f32);

/// Discounted completions of a distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    successes: f64,
    completions: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    arms: Vec<Pool>,
    rows: Vec<Seen<Evidence>>,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn RowChoice>, KeyError> {
    let settings = config.mopps.clone();
    rate("mopps.discount", settings.discount)?;
    if settings.candidates == 0 {
        return Err(KeyError::new("mopps.candidates", "must be at least 1, got 0"));
    }
    let (rows, arms) = (Memory::new(mixture), vec![Pool::default(); mixture.arms()]);
    Ok(Box::new(Mopps { settings, success_above: config.success_above, rows, arms }))
}

impl Pool {
    /// p̄.
    fn rate(self) -> f64 {
        (self.successes + 1.0) / (self.completions + 2.0)
    }
}

impl Mopps {
    /// (α, β) of a row, or of one that was never seen.
    fn belief(&self, arm: usize, row: Option<usize>) -> (f64, f64) {
        let p = self.arms[arm].rate();
        let Evidence(successes, failures) = row.map(|row| self.rows.of(arm, row)).unwrap_or_default();
        let parameter = |prior: f64, seen: f32| (PRIOR * prior + f64::from(seen)).max(LEAST);
        (parameter(p, successes), parameter(1.0 - p, failures))
    }

    /// |p − ½| for a p of the row's belief.
    fn distance(&self, arm: usize, row: usize, rng: &mut dyn RngCore) -> f64 {
        let (successes, failures) = self.belief(arm, Some(row));
        let belief = Beta::new(successes, failures).expect("this is a bug: a belief has parameters above 0");
        (belief.sample(rng) - 0.5).abs()
    }
}

impl RowChoice for Mopps {
    fn draw(&self, from: Candidates, rng: &mut dyn RngCore) -> usize {
        let mut best: Option<(f64, usize)> = None;
        let mut last = 0;
        for _ in 0..self.settings.candidates {
            last = rng.random_range(0..from.rows);
            if !(from.is_running)(last) {
                let distance = self.distance(from.arm, last, rng);
                if best.is_none_or(|(least, _)| distance < least) {
                    best = Some((distance, last));
                }
            }
        }
        best.map_or(last, |(_, row)| row)
    }

    fn observe(&mut self, group: &Observation) {
        let (successes, completions) = group.successes(self.success_above);
        if completions == 0 {
            return;
        }
        let pool = &mut self.arms[group.arm];
        pool.successes = MEMORY * pool.successes + successes as f64;
        pool.completions = MEMORY * pool.completions + completions as f64;
        let discount = self.settings.discount as f32;
        let entry = group.row.and_then(|row| self.rows.entry(group.arm, row));
        if let Some(Evidence(before, beside)) = entry {
            *before = discount * *before + successes as f32;
            *beside = discount * *beside + (completions - successes) as f32;
        }
    }

    fn expected(&self, arm: usize, row: Option<usize>) -> Option<f64> {
        let (successes, failures) = self.belief(arm, row);
        Some(successes / (successes + failures))
    }

    fn save(&self) -> serde_json::Value {
        to_json(&State { arms: self.arms.clone(), rows: self.rows.seen() })
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        let State { arms, rows } = from_json(state)?;
        same_arms(&arms, &self.arms)?;
        self.rows = self.rows.with(rows)?;
        self.arms = arms;
        Ok(())
    }
}
