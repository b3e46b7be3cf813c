//! The `[pipeline]` table: how far generation runs ahead of training, and for how long a stage may stand still.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

/// The longest time that can be set, in seconds: a year.
const LONGEST: u64 = 365 * 86_400;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineConfig {
    /// η: how many steps old a group's policy may be when the group is trained on. 0: synchronous and deterministic.
    pub max_off_policy_steps: u64,
    /// Requests in flight. 0: as many as the engine advises.
    pub rollout_workers: usize,
    /// Seconds that an engine in this process may take for a group or for a new policy, waiting included. 0: as long as it wants.
    pub engine_timeout_s: u64,
    /// Seconds in which no stage moves before a warning names the one that works. It comes again after twice as long. 0: never.
    pub stall_warning_s: u64,
    /// Seconds in which no stage moves before the run ends. 0: never.
    pub stall_timeout_s: u64,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            max_off_policy_steps: 0,
            rollout_workers: 0,
            engine_timeout_s: 3600,
            stall_warning_s: 600,
            stall_timeout_s: 7200,
        }
    }
}

impl PipelineConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_above(&[
            ("max_off_policy_steps", self.max_off_policy_steps, 1_000_000),
            ("engine_timeout_s", self.engine_timeout_s, LONGEST),
            ("stall_warning_s", self.stall_warning_s, LONGEST),
            ("stall_timeout_s", self.stall_timeout_s, LONGEST),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_limit() {
        let check = |config: PipelineConfig| config.check().map_err(|error| error.to_string());
        assert_eq!(check(PipelineConfig::default()), Ok(()));
        assert_eq!(check(PipelineConfig { engine_timeout_s: LONGEST, ..PipelineConfig::default() }), Ok(()));
        let refused = |key: &str| Err(format!("{key}: must be at most 31536000, got {}", u64::MAX));
        let too_long = u64::MAX;
        let config = PipelineConfig { engine_timeout_s: too_long, ..PipelineConfig::default() };
        assert_eq!(check(config), refused("engine_timeout_s"));
        let config = PipelineConfig { stall_warning_s: too_long, ..PipelineConfig::default() };
        assert_eq!(check(config), refused("stall_warning_s"));
        let config = PipelineConfig { stall_timeout_s: too_long, ..PipelineConfig::default() };
        assert_eq!(check(config), refused("stall_timeout_s"));
    }
}
