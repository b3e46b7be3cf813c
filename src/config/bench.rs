//! The `[bench]` table: the shapes that the benchmarks measure.

use serde::{Deserialize, Serialize};

use super::engine::EngineKind;
use crate::error::KeyError;

/// What the benches measure: every combination of the lists below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchConfig {
    /// Engines to compare. Empty: all that are built in for the device.
    pub engines: Vec<EngineKind>,
    pub prompts: Vec<usize>,
    pub group_sizes: Vec<usize>,
    pub prompt_tokens: Vec<usize>,
    pub new_tokens: Vec<usize>,
    pub lengths: Lengths,
    /// For `bench train`, instead of `prompt_tokens` and `new_tokens`: tokens of a whole sequence. The first value of
    /// `prompt_tokens`, but at most half of the sequence, is the prompt.
    pub train_tokens: Vec<usize>,
    /// The device's peak rate, in 10^12 floating-point operations per second. 0: the known rate of the card.
    pub peak_tflops: f64,
    /// Timed runs of each combination. The median is reported.
    pub repeats: usize,
}

/// How long the completions of a benchmark are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All have `new_tokens`.
    Fixed,
    /// Drawn uniformly from 1 to `new_tokens`, one length per prompt.
    Drawn,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            engines: Vec::new(),
            prompts: vec![8],
            group_sizes: vec![8],
            prompt_tokens: vec![100],
            new_tokens: vec![128],
            lengths: Lengths::Fixed,
            train_tokens: Vec::new(),
            peak_tflops: 0.0,
            repeats: 3,
        }
    }
}

impl BenchConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        let lists = [
            ("prompts", &self.prompts),
            ("group_sizes", &self.group_sizes),
            ("prompt_tokens", &self.prompt_tokens),
            ("new_tokens", &self.new_tokens),
        ];
        if let Some((key, _)) = lists.iter().find(|(_, list)| list.is_empty() || list.contains(&0)) {
            return Err(KeyError::new(*key, "must list numbers of at least 1"));
        }
        if let Some(tokens) = self.train_tokens.iter().find(|tokens| **tokens < 2) {
            let problem = format!("must list numbers of at least 2, a prompt and a completion, got {tokens}");
            return Err(KeyError::new("train_tokens", problem));
        }
        KeyError::if_zero(&[("repeats", self.repeats)])?;
        KeyError::if_outside(&[("peak_tflops", self.peak_tflops, 0.0, 1e9)])
    }
}
