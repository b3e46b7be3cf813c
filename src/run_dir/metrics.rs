//! A line of metrics.jsonl.

use serde_json::{Map, Value, json};

use super::score::SourceScore;
use crate::metric_names::{self as names, EvalMetric};

/// One line of metrics.jsonl, not written yet.
pub struct MetricsLine {
    values: Map<String, Value>,
}

/// A line that a checkpoint has kept.
impl From<Map<String, Value>> for MetricsLine {
    fn from(values: Map<String, Value>) -> Self {
        Self { values }
    }
}

impl MetricsLine {
    pub fn new(step: u64) -> Self {
        Self { values: Map::from_iter([(names::STEP.to_string(), step.into())]) }
    }

    pub fn step(&self) -> u64 {
        self.values.get(names::STEP).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A value by name. 0 if it was not logged.
    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).and_then(Value::as_f64).unwrap_or(0.0)
    }

    pub fn into_map(self) -> Map<String, Value> {
        self.values
    }

    /// Adds values. A value that is not finite becomes null.
    pub fn values<K: Into<String>>(&mut self, values: impl IntoIterator<Item = (K, f64)>) {
        self.values.extend(values.into_iter().map(|(name, value)| (name.into(), json!(value))));
    }

    /// Adds an evaluation with `k` completions per prompt.
    pub fn eval(&mut self, scores: &[SourceScore], k: usize, seconds: f64) {
        scores.iter().for_each(|score| self.values(score.metrics(k)));
        let mean = |of| SourceScore::mean(scores, of);
        self.values([
            (EvalMetric::Reward.of(names::MEAN), mean(|s| s.reward)),
            (EvalMetric::AnswerReward.of(names::MEAN), mean(|s| s.answer_reward)),
            (EvalMetric::Avg(k).of(names::MEAN), mean(|s| s.avg_at_k)),
            (names::TIME_EVAL.to_string(), seconds),
        ]);
    }
}
