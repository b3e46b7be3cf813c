//! The registry of policy losses: what each makes of one token. Pure functions.
//!
//! r = π/π_old is the ratio of the policy that is trained to the one at the start of the batch, A the advantage.

use candle_core::{DType, Result, Tensor};

use super::TokenInputs;
use crate::config::loss::{LossConfig, LossKind};

/// Loss of each token (N), with gradient, and which tokens were clipped (N, 0 or 1).
pub type Term = fn(&LossConfig, &TokenInputs) -> Result<(Tensor, Tensor)>;

/// What a kind of loss makes of each token. The kinds that share one differ in their defaults ([`LossKind::apply`]).
pub fn term(kind: LossKind) -> Term {
    match kind {
        LossKind::Grpo | LossKind::DrGrpo | LossKind::Dapo | LossKind::Rloo | LossKind::ReinforcePlusPlus => {
            clipped_ratio
        }
        LossKind::Gspo => sequence_ratio,
        LossKind::Cispo => clipped_weight,
    }
}

/// max(−r·A, −clip(r)·A), PPO's term (arXiv 1707.06347), as GRPO (arXiv 2402.03300) uses it.
fn clipped_ratio(config: &LossConfig, inputs: &TokenInputs) -> Result<(Tensor, Tensor)> {
    clip(config, inputs, &(inputs.log_probs - inputs.old_log_probs)?.exp()?)
}

/// The same with one ratio a sequence, s = exp(mean over its tokens of ln r), whose gradient each token shares
/// (GSPO-token, arXiv 2507.18071, equation 14; equal to GSPO where a sequence has one advantage).
fn sequence_ratio(config: &LossConfig, inputs: &TokenInputs) -> Result<(Tensor, Tensor)> {
    let detached = inputs.log_probs.detach();
    let (device, sequences) = (detached.device(), inputs.lengths.len());
    let sequence_of = inputs.lengths.iter().enumerate().flat_map(|(i, length)| vec![i as u32; *length]);
    let sequence_of = Tensor::new(sequence_of.collect::<Vec<_>>(), device)?;
    let lengths = inputs.lengths.iter().map(|length| (*length).max(1) as f32);
    let sums = Tensor::zeros(sequences, DType::F32, device)?.index_add(
        &sequence_of,
        &(&detached - inputs.old_log_probs)?,
        0,
    )?;
    let means = (sums / Tensor::new(lengths.collect::<Vec<_>>(), device)?)?.index_select(&sequence_of, 0)?;
    clip(config, inputs, &((inputs.log_probs - &detached)? + means)?.exp()?)
}

/// −stop_gradient(clip(r))·A·ln π: every token keeps its gradient, only its weight is bounded (CISPO, arXiv 2506.13585).
fn clipped_weight(config: &LossConfig, inputs: &TokenInputs) -> Result<(Tensor, Tensor)> {
    let ratio = (inputs.log_probs.detach() - inputs.old_log_probs)?.exp()?;
    let weight = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high)?;
    let is_clipped = weight.ne(&ratio)?.to_dtype(DType::F32)?;
    Ok(((weight * inputs.advantages)?.neg()?.mul(inputs.log_probs)?, is_clipped))
}

/// max(−r·A, −clip(r)·A); where A < 0 at most −c·A with a dual clip c (arXiv 1912.09729).
fn clip(config: &LossConfig, inputs: &TokenInputs, ratio: &Tensor) -> Result<(Tensor, Tensor)> {
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
