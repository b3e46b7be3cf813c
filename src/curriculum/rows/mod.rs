//! Which row of a distribution is drawn, once a policy has chosen the distribution. Pure.
//!
//! A policy and a [`RowChoice`] go together in any pair: `curriculum.rows` names the second. Each is one file with its formula and
//! source, and learns from the same groups as the policy. Rows that are new at every draw have no past, so there is nothing to choose.

pub mod greso;
pub mod mopps;

use std::fmt;

use rand::{Rng, RngCore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::saved::same_arms;
use super::{CurriculumConfig, Mixture, Observation};
use crate::error::KeyError;

/// How rows are chosen: `curriculum.rows`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Every row is as likely, as in DUMP.
    #[default]
    Uniform,
    /// By what is known of each row's success rate; see [`mopps`].
    Mopps,
    /// Rows whose groups had no variance are passed over; see [`greso`].
    Greso,
}

impl fmt::Display for Rows {
    /// As a configuration names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Mopps => "mopps",
            Self::Greso => "greso",
        })
    }
}

/// The rows to choose from.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    /// The distribution.
    pub arm: usize,
    /// Its number of rows; at least 1.
    pub rows: usize,
    /// Whether a row is drawn already and not trained on yet.
    pub is_running: &'a dyn Fn(usize) -> bool,
}

/// Decides which row of a distribution is drawn.
///
/// Invariants: a drawn row is one of the distribution's. Saving and loading changes no bit of what is drawn later, even if the state
/// is written as JSON text in between.
pub trait RowChoice: Send {
    /// The row to draw.
    fn draw(&self, from: Candidates, rng: &mut dyn RngCore) -> usize;

    /// Learns from one group. Nothing is learnt from one whose row is unknown.
    fn observe(&mut self, _group: &Observation) {}

    /// The success rate that is expected of a row, or of one that was never seen, if it is estimated.
    fn expected(&self, _arm: usize, _row: Option<usize>) -> Option<f64> {
        None
    }

    /// Everything that was learnt, for a checkpoint.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Restores what [`save`](Self::save) gave. An error says what does not fit; then nothing has changed.
    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        if state.is_null() { Ok(()) } else { Err("rows are chosen uniformly, which keeps no state".into()) }
    }
}

/// The choice that `config` names, over these distributions.
///
/// # Errors
/// The key inside `[curriculum]` that does not fit, and what would fit.
pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn RowChoice>, KeyError> {
    match config.rows {
        Rows::Uniform => Ok(Box::new(Uniform)),
        Rows::Mopps => mopps::build(config, mixture),
        Rows::Greso => greso::build(config, mixture),
    }
}

struct Uniform;

impl RowChoice for Uniform {
    fn draw(&self, from: Candidates, rng: &mut dyn RngCore) -> usize {
        rng.random_range(0..from.rows)
    }
}

/// What is remembered of each row of each distribution. Its memory grows up to the last row that was seen, so millions of rows have a
/// known size, and rows that are new at every draw take none.
struct Memory<T> {
    /// Rows of each arm.
    sizes: Vec<usize>,
    arms: Vec<Vec<T>>,
}

/// A row that was seen: its index and what is remembered of it.
type Seen<T> = Vec<(usize, T)>;

impl<T: Clone + Default + PartialEq + Serialize + DeserializeOwned> Memory<T> {
    fn new(mixture: &Mixture) -> Self {
        Self { sizes: mixture.sizes.clone(), arms: vec![Vec::new(); mixture.arms()] }
    }

    fn of(&self, arm: usize, row: usize) -> T {
        self.arms[arm].get(row).cloned().unwrap_or_default()
    }

    /// What is remembered of a row, to change it. None if the arm has no such row.
    fn entry(&mut self, arm: usize, row: usize) -> Option<&mut T> {
        if row >= *self.sizes.get(arm)? {
            return None;
        }
        let rows = &mut self.arms[arm];
        if rows.len() <= row {
            rows.resize(row + 1, T::default());
        }
        rows.get_mut(row)
    }

    /// The rows that were seen, by arm.
    fn seen(&self) -> Vec<Seen<T>> {
        let of_arm = |rows: &Vec<T>| rows.iter().cloned().enumerate().filter(|(_, it)| *it != T::default()).collect();
        self.arms.iter().map(of_arm).collect()
    }

    /// # Errors
    /// Another number of arms, or a row that an arm does not have.
    fn with(&self, seen: Vec<Seen<T>>) -> Result<Self, String> {
        same_arms(&seen, &self.arms)?;
        let mut memory = Self { sizes: self.sizes.clone(), arms: vec![Vec::new(); self.arms.len()] };
        for (arm, seen) in seen.into_iter().enumerate() {
            for (row, remembered) in seen {
                let all = memory.sizes[arm];
                let missing = || format!("the rows' state has row {row} of {all}");
                *memory.entry(arm, row).ok_or_else(missing)? = remembered;
            }
        }
        Ok(memory)
    }
}

#[cfg(test)]
mod tests;
