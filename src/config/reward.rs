//! The `[reward]` and `[advantage]` tables: from a completion's grade to its advantage.

use serde::{Deserialize, Serialize};

use crate::advantage::AdvantageScale;
use crate::error::KeyError;

/// What is subtracted from a completion's grade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RewardConfig {
    /// The penalty begins this many tokens before `engine.max_new_tokens`, or before the end of the context. 0: no penalty.
    pub overlong_buffer: usize,
    /// The penalty of a completion of the greatest length.
    pub overlong_penalty: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdvantageConfig {
    pub scale: AdvantageScale,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self { overlong_buffer: 0, overlong_penalty: 1.0 }
    }
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self { scale: AdvantageScale::GroupStd }
    }
}

impl RewardConfig {
    /// `max_new_tokens`: the longest completion.
    ///
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self, max_new_tokens: usize) -> Result<(), KeyError> {
        let buffer = self.overlong_buffer;
        if buffer > max_new_tokens {
            let problem = format!("must be at most engine.max_new_tokens, which is {max_new_tokens}, got {buffer}");
            return Err(KeyError::new("overlong_buffer", problem));
        }
        KeyError::if_outside(&[("overlong_penalty", f64::from(self.overlong_penalty), 0.0, 1e6)])
    }
}
