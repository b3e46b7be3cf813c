//! The `[eval]` table: when and how a policy is evaluated on held-out rows.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalConfig {
    /// Steps between two evaluations; there is also one at step 0 and one at the end. 0: never.
    pub interval: u64,
    /// Test prompts of each distribution.
    pub prompts: usize,
    /// Completions of each prompt (k of avg@k and pass@k).
    pub samples: usize,
    /// Sampling temperature. 0: greedy.
    pub temperature: f32,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { interval: 10, prompts: 20, samples: 1, temperature: 1.0 }
    }
}

impl EvalConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("prompts", self.prompts), ("samples", self.samples)])?;
        KeyError::if_outside(&[("temperature", f64::from(self.temperature), 0.0, 100.0)])
    }
}
