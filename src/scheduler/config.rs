//! The fixed numbers of a run.

use serde::{Deserialize, Serialize};

use crate::curriculum::CurriculumConfig;

/// The fixed numbers of a run.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// B.
    pub batch_size: usize,
    /// η.
    pub max_off_policy_steps: u64,
    pub max_steps: u64,
    pub seed: u64,
    pub curriculum: CurriculumConfig,
    pub filter: FilterConfig,
}

/// `[filter]`: groups that nothing can be learned from (DAPO's dynamic sampling, arXiv 2503.14476).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterConfig {
    /// Groups whose completions all have the same reward are dropped, and others are drawn in their place. The curriculum
    /// still observes them.
    pub zero_variance: bool,
    /// After this many batches' worth of groups were dropped within one step, every group is accepted. Otherwise a model
    /// that solves all prompts, or none, could never fill a batch.
    pub max_refills: u64,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { zero_variance: false, max_refills: 10 }
    }
}
