//! The `[ckpt]` table: when checkpoints are saved, and how many stay.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CkptConfig {
    /// Save every so many steps; 0: only at the end.
    pub interval: u64,
    /// How many checkpoints stay.
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
