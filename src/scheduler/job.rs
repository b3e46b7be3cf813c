//! A job, and what can become of it.

use serde::{Deserialize, Serialize};

/// One dispatched prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Counts dispatches from 0. Unique in a run, also across resumes.
    pub id: u64,
    /// Index of the distribution.
    pub arm: usize,
    /// Index of the row within its distribution.
    pub row: usize,
    /// Seed of the group's completions.
    pub seed: u64,
    /// How many batches' worth of groups had been dropped for zero variance since the last step when this job was drawn.
    pub refills: u64,
}

/// What the outcome of a finished group depends on.
#[derive(Debug, Clone, Copy)]
pub struct FinishedGroup<'a> {
    pub job: &'a Job,
    /// The step of the oldest policy among its completions.
    pub policy_step: u64,
    pub rewards: &'a [f32],
    /// All completions are right.
    pub right: bool,
}

/// The scheduler's answer to "what next?".
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Dispatch(Job),
    /// Nothing until a group is settled or a policy published.
    Wait,
    /// Nothing any more.
    Done,
}

/// Why a group was not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Its policy was more than η steps old when its batch was made.
    Stale,
    /// The engine could not answer.
    Failed,
    /// The grader could not grade it.
    Ungraded,
    /// All completions are right, so none has an advantage. Another group is drawn instead.
    SolvedAll,
    /// All completions have the same reward and not all are right. Another group is drawn instead.
    SolvedNone,
}

/// What became of a finished group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in a batch.
    Accepted,
    Dropped(DropReason),
}
