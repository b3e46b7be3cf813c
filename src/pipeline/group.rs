//! Groups of completions, as they travel between the stages.

use engine::Completion;

use crate::scheduler::{FinishedGroup, Job};
use crate::task::Grade;

/// All completions of one job.
#[derive(Debug)]
pub struct Group {
    pub job: Job,
    pub completions: Vec<Completion>,
}

/// A group with rewards and advantages. All lists have one entry per completion.
#[derive(Debug)]
pub struct ScoredGroup {
    pub job: Job,
    pub completions: Vec<Completion>,
    /// What the prompt begins of the texts that are graded.
    pub prefill: String,
    pub texts: Vec<String>,
    pub grades: Vec<Grade>,
    /// The score of the grade, minus the penalty for an overlong completion.
    pub rewards: Vec<f32>,
    pub advantages: Vec<f32>,
}

impl ScoredGroup {
    /// What the scheduler needs to decide whether the group is accepted.
    pub fn finished(&self) -> FinishedGroup<'_> {
        let right = self.grades.iter().all(|grade| grade.is_right());
        FinishedGroup { job: &self.job, policy_step: self.policy_step(), rewards: &self.rewards, right }
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
