//! How the ratio is bounded.

use candle_core::{DType, Result, Tensor};

use super::inputs::{TermOutput, TokenInputs};
use crate::config::loss::LossConfig;

/// max(−r·A, −clip(r)·A): PPO's term (arXiv 1707.06347). With a dual clip c (arXiv 1912.09729) it is at most −c·A where
/// A < 0.
pub fn pessimistic(config: &LossConfig, inputs: &TokenInputs, ratio: &Tensor) -> Result<TermOutput> {
    let clipped = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high)?;
    let (free, bound) = ((ratio * inputs.advantages)?.neg()?, (&clipped * inputs.advantages)?.neg()?);
    let is_clipped = bound.detach().gt(&free.detach())?;
    let loss = is_clipped.where_cond(&bound, &free)?;
    let is_clipped = is_clipped.to_dtype(DType::F32)?;
    if config.clip_ratio_c <= 1.0 {
        return Ok((loss, is_clipped));
    }
    let ceiling = (inputs.advantages * -config.clip_ratio_c)?;
    let is_above =
        (loss.detach().gt(&ceiling)?.to_dtype(DType::F32)? * inputs.advantages.lt(0.0)?.to_dtype(DType::F32)?)?;
    let loss = is_above.gt(0.0)?.where_cond(&ceiling, &loss)?;
    Ok((loss, is_clipped.maximum(&is_above)?))
}

/// −stop_gradient(clip(r))·A·ln π (CISPO, arXiv 2506.13585): every token keeps its gradient, only its weight is bounded.
pub fn weight(config: &LossConfig, inputs: &TokenInputs) -> Result<TermOutput> {
    let ratio = (inputs.log_probs.detach() - inputs.old_log_probs)?.exp()?;
    let weight = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high)?;
    let is_clipped = weight.ne(&ratio)?.to_dtype(DType::F32)?;
    Ok(((weight * inputs.advantages)?.neg()?.mul(inputs.log_probs)?, is_clipped))
}
