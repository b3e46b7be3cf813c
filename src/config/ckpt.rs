//! The `[ckpt]` table: when checkpoints are saved, and how many are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CkptConfig {
    /// Steps between two checkpoints. 0: only one, at the end.
    pub interval: u64,
    /// Minutes after which the next whole step is saved, whatever `interval` says. 0: only `interval` counts.
    pub minutes: u64,
    /// How many of the newest checkpoints are kept.
    pub keep_last: usize,
    /// The checkpoint of every step that this divides is kept too. 0: of none.
    pub keep_interval: u64,
}

impl Default for CkptConfig {
    fn default() -> Self {
        Self { interval: 25, minutes: 0, keep_last: 2, keep_interval: 0 }
    }
}

impl CkptConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("keep_last", self.keep_last)])?;
        if self.interval > 0 && !self.keep_interval.is_multiple_of(self.interval) && self.minutes == 0 {
            let problem = format!("must be a multiple of ckpt.interval = {}: no other step is saved", self.interval);
            return Err(KeyError::new("keep_interval", problem));
        }
        Ok(())
    }

    /// Whether `step` is saved, of a run whose last checkpoint is `age` old and that ends with step `last`.
    pub fn is_due(&self, step: u64, age: Duration, last: u64) -> bool {
        let by_steps = self.interval > 0 && step.is_multiple_of(self.interval);
        let by_time = self.minutes > 0 && age >= Duration::from_secs(self.minutes.saturating_mul(60));
        by_steps || by_time || step == last
    }

    /// Whether the checkpoint of `step` is kept whatever comes after it.
    pub fn keeps(&self, step: u64) -> bool {
        self.keep_interval > 0 && step.is_multiple_of(self.keep_interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_steps_by_time_and_at_the_end() {
        let config = CkptConfig { interval: 10, minutes: 2, ..CkptConfig::default() };
        let check = |config: &CkptConfig, step, seconds, expected| {
            assert_eq!(config.is_due(step, Duration::from_secs(seconds), 25), expected, "{step} {seconds}");
        };
        check(&config, 10, 0, true);
        check(&config, 11, 119, false);
        check(&config, 11, 120, true);
        check(&config, 25, 0, true);
        let only_at_the_end = CkptConfig { interval: 0, minutes: 0, ..CkptConfig::default() };
        check(&only_at_the_end, 10, 1_000_000, false);
        check(&only_at_the_end, 25, 0, true);
    }

    #[test]
    fn some_checkpoints_are_kept_for_good() {
        let config = CkptConfig { interval: 10, keep_interval: 30, ..CkptConfig::default() };
        assert!(config.check().is_ok() && config.keeps(60) && !config.keeps(50));
        assert!(!CkptConfig::default().keeps(0));
        let error = CkptConfig { interval: 10, keep_interval: 25, ..CkptConfig::default() }.check().unwrap_err();
        assert_eq!(error.key, "keep_interval");
    }
}
