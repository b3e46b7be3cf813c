//! The `[ckpt]` table: when checkpoints are saved, and how many are kept.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CkptConfig {
    /// Steps between two checkpoints. 0: only one, at the end.
    pub interval: u64,
    /// How many of the newest checkpoints are kept.
    pub keep_last: usize,
}

impl Default for CkptConfig {
    fn default() -> Self {
        Self { interval: 25, keep_last: 2 }
    }
}

impl CkptConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("keep_last", self.keep_last)])
    }
}
