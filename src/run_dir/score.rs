//! The result of an evaluation.

use serde::{Deserialize, Serialize};

use crate::metric_names::EvalMetric;

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
    /// The mean over distributions of one number.
    pub fn mean(scores: &[Self], of: fn(&Self) -> f64) -> f64 {
        scores.iter().map(of).sum::<f64>() / scores.len().max(1) as f64
    }

    /// Metric names and values; `k` completions per prompt.
    pub fn metrics(&self, k: usize) -> Vec<(String, f64)> {
        let source = &self.source;
        vec![
            (EvalMetric::Reward.of(source), self.reward),
            (EvalMetric::AnswerReward.of(source), self.answer_reward),
            (EvalMetric::FormatReward.of(source), self.format_reward),
            (EvalMetric::Avg(k).of(source), self.avg_at_k),
            (EvalMetric::Pass(k).of(source), self.pass_at_k),
            (EvalMetric::MeanLength.of(source), self.length),
        ]
    }
}
