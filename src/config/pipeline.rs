//! The `[pipeline]` table: how far generation runs ahead of training.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineConfig {
    /// η: how many steps old a group's policy may be when the group is trained on. 0: synchronous and deterministic.
    pub max_off_policy_steps: u64,
    /// Requests in flight. 0: as many as the engine advises.
    pub rollout_workers: usize,
}

impl PipelineConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_above(&[("max_off_policy_steps", self.max_off_policy_steps, 1_000_000)])
    }
}
