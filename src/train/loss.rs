//! The loss of a batch: a policy loss per token, a KL term and an entropy bonus, and their weighted sum. Pure functions.
//!
//! Notation: π is the policy that is trained, π_old the policy at the start of the batch, π_engine the policy as the engine
//! sampled it, π_ref the base model, A the advantage.

mod aggregation;
mod clip;
mod importance;
mod inputs;
mod kl;
mod ratio;
mod registry;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

pub use self::aggregation::token_weights;
pub use self::inputs::TokenInputs;
use crate::config::loss::LossConfig;

/// The loss of some tokens, and sums for the log.
pub struct TokenLoss {
    /// Scalar, with gradient.
    pub total: Tensor,
    /// The four numbers of [`TokenSums`], on the device. Reading them waits for the device.
    pub sums: Tensor,
}

/// Weighted sums over tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSums {
    pub pg_loss: f64,
    pub kl_loss: f64,
    /// Σ weight over the tokens whose ratio was clipped.
    pub clipped_weight: f64,
    /// Σ weight over all tokens.
    pub weight: f64,
}

impl TokenLoss {
    /// Waits for the device.
    pub fn read(&self) -> Result<TokenSums> {
        let sums = self.sums.to_vec1::<f32>()?;
        Ok(TokenSums::new(std::array::from_fn(|i| sums[i])))
    }
}

impl TokenSums {
    pub fn new(sums: [f32; 4]) -> Self {
        let [pg_loss, kl_loss, clipped_weight, weight] = sums.map(f64::from);
        Self { pg_loss, kl_loss, clipped_weight, weight }
    }
}

/// Σ weight · (w_is · policy loss + β · KL − c · entropy) over tokens, where w_is corrects for the engine.
pub fn policy_loss(config: &LossConfig, inputs: &TokenInputs) -> Result<TokenLoss> {
    let (term, is_clipped) = registry::policy_term(config.kind)(config, inputs)?;
    let weights = (inputs.weights * importance::weights(config, inputs)?)?;
    let pg_loss = (term * &weights)?.sum_all()?;
    let kl_loss = match inputs.ref_log_probs {
        Some(reference) => {
            (kl::estimate(config.kl_loss_type, reference, inputs.log_probs)? * inputs.weights)?.sum_all()?
        }
        None => Tensor::zeros_like(&pg_loss)?,
    };
    let mut total = (&pg_loss + (&kl_loss * config.kl_loss_coef)?)?;
    if config.entropy_coef != 0.0 {
        total = (total - ((inputs.entropies * inputs.weights)?.sum_all()? * config.entropy_coef)?)?;
    }
    let clipped_weight = (is_clipped * inputs.weights)?.sum_all()?;
    let sums = [pg_loss, kl_loss, clipped_weight, inputs.weights.sum_all()?].map(|sum| sum.detach());
    Ok(TokenLoss { total, sums: Tensor::stack(&sums, 0)? })
}
