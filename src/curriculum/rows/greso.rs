//! Rows without variance are passed over more and more: after GRESO (arXiv 2506.02177).
//!
//! A row is drawn uniformly. If its last z groups had equal rewards, it is kept with probability exploreᶻ, and otherwise another is
//! drawn. So a row that is solved, or hopeless, comes back seldom and never stays away for good.
//!
//! The paper changes its probabilities, one for solved rows and one for hopeless ones, until a chosen share of the groups has no
//! variance. Here the probability is one setting and stays as it is.

use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};

use super::super::checks::rate;
use super::super::saved::{from_json, to_json};
use super::{Candidates, CurriculumConfig, Memory, Mixture, Observation, RowChoice, Seen};
use crate::error::KeyError;

/// After so many rows that were passed over, the next one is drawn whatever its past is.
const TRIES: usize = 100;

/// `[curriculum.greso]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The probability that a row is kept although its last group had no variance; above 0, at most 1, which is uniform.
    pub explore: f64,
}

impl Default for Settings {
    /// What the paper's probabilities start with.
    fn default() -> Self {
        Self { explore: 0.5 }
    }
}

struct Greso {
    explore: f64,
    /// z of each row.
    rows: Memory<u32>,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn RowChoice>, KeyError> {
    rate("greso.explore", config.greso.explore)?;
    Ok(Box::new(Greso { explore: config.greso.explore, rows: Memory::new(mixture) }))
}

impl RowChoice for Greso {
    fn draw(&self, from: Candidates, rng: &mut dyn RngCore) -> usize {
        let mut row = 0;
        for _ in 0..TRIES {
            row = rng.random_range(0..from.rows);
            let kept = self.explore.powf(f64::from(self.rows.of(from.arm, row)));
            if rng.random::<f64>() < kept {
                break;
            }
        }
        row
    }

    fn observe(&mut self, group: &Observation) {
        let Some(first) = group.rewards.first() else { return };
        let is_flat = group.rewards.iter().all(|reward| reward == first);
        if let Some(flat) = group.row.and_then(|row| self.rows.entry(group.arm, row)) {
            *flat = if is_flat { flat.saturating_add(1) } else { 0 };
        }
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.rows.seen())
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        let seen: Vec<Seen<u32>> = from_json(state)?;
        self.rows = self.rows.with(seen)?;
        Ok(())
    }
}
