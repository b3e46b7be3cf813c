//! The `[eval]` table: when and how a policy is evaluated on held-out rows.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalConfig {
    /// Evaluate at step 0, every so many steps, and at the end; 0: never.
    pub interval: u64,
    /// Test prompts of each distribution.
    pub prompts: usize,
    /// Completions of each prompt (k of avg@k and pass@k).
    pub samples: usize,
    /// 0 is greedy.
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
