//! The `[trainer]` table: how a policy step is computed.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

/// How a batch is divided into updates and micro-batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerConfig {
    /// A micro-batch holds at most this many tokens. Gradients are summed over micro-batches.
    pub micro_batch_tokens: usize,
    /// Passes over each batch.
    pub ppo_epochs: usize,
    /// Groups in each optimiser update; 0: the whole batch.
    pub ppo_mini_batch_size: usize,
    pub recompute: Recompute,
}

/// Whether the backward pass computes each block again, so that only the block's input stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// On a GPU, and where the activations of the micro-batches would take more than a quarter of the machine's memory.
    Auto,
    Always,
    Never,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self { micro_batch_tokens: 2048, ppo_epochs: 1, ppo_mini_batch_size: 0, recompute: Recompute::Auto }
    }
}

impl TrainerConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("ppo_epochs", self.ppo_epochs), ("micro_batch_tokens", self.micro_batch_tokens)])
    }
}
