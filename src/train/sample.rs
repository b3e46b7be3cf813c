//! What the trainer learns from.

use std::sync::Arc;

/// One completion with its advantage.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Which group the completion belongs to. The samples of a group are adjacent and have one prompt; another group may have the
    /// same prompt.
    pub group: u64,
    /// Index of the distribution that the prompt is from.
    pub source: usize,
    pub prompt: Arc<[u32]>,
    /// Sampled token ids.
    pub completion: Vec<u32>,
    /// The engine's natural-log probabilities, one for each id of `completion`.
    pub rollout_log_probs: Vec<f32>,
    pub advantage: f32,
    /// The step of the policy that sampled the completion.
    pub policy_step: u64,
    /// Whether the completion was cut off at the longest length allowed.
    pub truncated: bool,
}
