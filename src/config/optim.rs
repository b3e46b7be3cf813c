//! The `[optim]` table: AdamW and its learning rate.

use serde::{Deserialize, Serialize};

use crate::error::KeyError;

/// Settings of the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Learning rate after the warm-up.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this global L2 norm; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// The rate rises linearly from 0 over this many updates.
    pub warmup_steps: u64,
    /// How the rate changes after the warm-up.
    pub lr_schedule: LrSchedule,
    /// A falling schedule ends at this share of the rate.
    pub min_lr_ratio: f64,
}

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    Constant,
    /// Falls linearly to `min_lr_ratio` at the end of the run.
    Linear,
    /// Stays constant, then falls linearly to `min_lr_ratio` over the last 30 % of the run ("WSD", arXiv 2404.06395).
    WarmupStableDecay,
    /// Falls along half a cosine to `min_lr_ratio` at the end of the run.
    Cosine,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            warmup_steps: 0,
            lr_schedule: LrSchedule::Constant,
            min_lr_ratio: 0.0,
        }
    }
}

impl OptimConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_outside(&[
            ("lr", self.lr, 0.0, 10.0),
            ("beta1", self.beta1, 0.0, 1.0 - 1e-12),
            ("beta2", self.beta2, 0.0, 1.0 - 1e-12),
            ("eps", self.eps, f64::MIN_POSITIVE, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("max_grad_norm", self.max_grad_norm, 0.0, 1e9),
            ("min_lr_ratio", self.min_lr_ratio, 0.0, 1.0),
        ])
    }
}
