//! The result of an evaluation.

use serde::{Deserialize, Serialize};

/// Means over a distribution's test prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceScore {
    pub source: String,
    pub prompts: usize,
    pub reward: f64,
    pub answer_reward: f64,
    pub format_reward: f64,
    /// Share of completions that are right.
    pub avg_at_k: f64,
    /// Share of prompts with at least one right completion.
    pub pass_at_k: f64,
    /// Mean tokens of a completion.
    pub length: f64,
}

impl SourceScore {
    /// Metric names and values; `k` completions a prompt.
    pub fn metrics(&self, k: usize) -> Vec<(String, f64)> {
        let name = |what: &str| format!("eval/{}/{what}", self.source);
        vec![
            (name("reward"), self.reward),
            (name("answer_reward"), self.answer_reward),
            (name("format_reward"), self.format_reward),
            (name(&format!("avg@{k}")), self.avg_at_k),
            (name(&format!("pass@{k}")), self.pass_at_k),
            (name("mean_length"), self.length),
        ]
    }
}
