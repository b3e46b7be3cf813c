//! The books: which jobs are in flight, why each was drawn, and how each ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::job::{DropReason, Job, Outcome};
use crate::curriculum::Observation;

/// The state that a draw was made in. With the observations before it, another curriculum can make the same draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrawState {
    /// Policy steps that were made.
    pub step: u64,
    /// Groups that the curriculum had observed since the start.
    pub seen: u64,
    /// Groups of each arm that were drawn before and not observed.
    pub in_flight: Vec<u64>,
}

/// Why a job was drawn: its line in decisions.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub drawn: DrawState,
    /// The probability, value and bonus of each arm at the draw, rounded to f32.
    pub weights: Vec<f32>,
    pub values: Vec<f32>,
    pub bonuses: Vec<f32>,
}

/// A job that has ended. It was trained on if `dropped` is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub job: Job,
    pub decision: Decision,
    pub dropped: Option<DropReason>,
}

/// A group that the curriculum saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub drawn: DrawState,
    pub group: Observation,
}

/// What happened since the last step, for the run's logs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// In the order in which the curriculum saw them.
    pub observed: Vec<Observed>,
    /// Jobs in the order in which they ended.
    pub ended: Vec<Ended>,
}

/// A job in flight, with what has happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Flight {
    pub job: Job,
    pub decision: Decision,
    /// The curriculum has seen its rewards.
    pub observed: bool,
    /// It is in a batch that is not trained yet, or it is dropped when its round is over.
    #[serde(skip)]
    pub settled: Option<Outcome>,
}

/// Counts since the start of the run. Lists have one entry per distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub dispatched: Vec<u64>,
    pub trained: Vec<u64>,
    pub dropped: BTreeMap<DropReason, u64>,
    /// Groups that the curriculum observed, including those dropped later, and the tokens of their completions.
    pub observed: u64,
    pub tokens: u64,
}

impl Ledger {
    /// Groups that ended for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or(0)
    }
}
