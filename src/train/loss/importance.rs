//! Importance weights w = π_old/π_engine: the correction for the difference between engine and trainer.

use candle_core::{DType, Result, Tensor};

use super::inputs::TokenInputs;
use crate::config::loss::{LossConfig, RolloutIs};

/// The factor of each token's policy loss (N), without gradient.
pub fn weights(config: &LossConfig, inputs: &TokenInputs) -> Result<Tensor> {
    let threshold = config.rollout_is_threshold;
    let weight = (inputs.old_log_probs - inputs.rollout_log_probs)?.detach().exp()?;
    match config.rollout_is {
        RolloutIs::None => weight.ones_like(),
        RolloutIs::Truncate => weight.clamp(0.0, threshold),
        RolloutIs::Mask => {
            let is_near =
                (weight.le(threshold)?.to_dtype(DType::F32)? * weight.ge(1.0 / threshold)?.to_dtype(DType::F32)?)?;
            // The clamp keeps an infinite weight from giving ∞ · 0 = NaN.
            weight.clamp(0.0, threshold)? * is_near
        }
    }
}
