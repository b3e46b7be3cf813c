//! What travels between the stages.

use engine::Completion;
use serde::{Deserialize, Serialize};

use crate::scheduler::Finished;
use crate::task::Grade;

/// One dispatched prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Counts dispatches from 0; unique in a run, also across resumes.
    pub id: u64,
    /// Index of the distribution.
    pub arm: usize,
    /// Index of the row within its distribution.
    pub row: usize,
    /// Seed of the group's completions.
    pub seed: u64,
    /// How often as many groups as a batch has had been left out for want of variance, since the last step, when it was drawn.
    pub refills: u64,
}

/// All completions of one job.
#[derive(Debug)]
pub struct Group {
    pub job: Job,
    pub completions: Vec<Completion>,
}

/// A group with rewards and advantages; all lists have one entry a completion.
#[derive(Debug)]
pub struct ScoredGroup {
    pub job: Job,
    pub completions: Vec<Completion>,
    pub texts: Vec<String>,
    pub grades: Vec<Grade>,
    /// What the grade gives, less the penalty for an overlong completion.
    pub rewards: Vec<f32>,
    pub advantages: Vec<f32>,
}

impl ScoredGroup {
    /// What its fate depends on.
    pub fn finished(&self) -> Finished<'_> {
        let right = self.grades.iter().all(|grade| grade.is_right());
        Finished { job: &self.job, policy_step: self.policy_step(), rewards: &self.rewards, right }
    }

    /// Tokens of all completions.
    pub fn tokens(&self) -> usize {
        self.completions.iter().map(|completion| completion.tokens.len()).sum()
    }

    /// The oldest policy among the completions.
    pub fn policy_step(&self) -> u64 {
        self.completions.iter().map(|c| c.policy.step).min().unwrap_or(0)
    }
}
