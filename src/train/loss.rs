//! GRPO's loss per token, and how tokens are weighed into one number. Pure functions.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// How the tokens of a batch are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossAggMode {
    /// Every token of the batch weighs the same (DAPO, arXiv 2503.14476).
    TokenMean,
    /// Mean over a sequence's tokens, then over sequences (GRPO, arXiv 2402.03300).
    SeqMeanTokenMean,
    /// Sum over a sequence's tokens, then mean over sequences.
    SeqMeanTokenSum,
    /// As before, divided by the longest completion allowed (Dr. GRPO, arXiv 2503.20783).
    SeqMeanTokenSumNorm,
}

/// Settings of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// The ratio is clipped to [1 − clip_ratio_low, 1 + clip_ratio_high].
    pub clip_ratio_low: f64,
    pub clip_ratio_high: f64,
    pub loss_agg_mode: LossAggMode,
    /// Weight of the k3 estimate of KL(policy ‖ base model); 0 skips the base model's forward.
    pub kl_loss_coef: f64,
    /// Weigh each token by min(π_train / π_engine, threshold): truncated importance sampling.
    pub rollout_is: bool,
    pub rollout_is_threshold: f64,
    /// Optimiser updates on each batch.
    pub updates_per_batch: usize,
    /// A micro-batch holds at most this many tokens, padding included.
    pub micro_batch_tokens: usize,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            clip_ratio_low: 0.2,
            clip_ratio_high: 0.2,
            loss_agg_mode: LossAggMode::TokenMean,
            kl_loss_coef: 0.0,
            rollout_is: true,
            rollout_is_threshold: 2.0,
            updates_per_batch: 1,
            micro_batch_tokens: 4096,
        }
    }
}

/// The weight of each token of a sequence of `lengths[i]` tokens in the batch's loss.
///
/// Computed over the whole batch, so that the sum over micro-batches is the loss of the batch however it is cut.
pub fn token_weights(mode: LossAggMode, lengths: &[usize], max_new_tokens: usize) -> Vec<f32> {
    let sequences = lengths.len() as f64;
    let tokens = lengths.iter().sum::<usize>().max(1) as f64;
    let weight = |&length: &usize| match mode {
        LossAggMode::TokenMean => 1.0 / tokens,
        LossAggMode::SeqMeanTokenMean => 1.0 / (sequences * length.max(1) as f64),
        LossAggMode::SeqMeanTokenSum => 1.0 / sequences,
        LossAggMode::SeqMeanTokenSumNorm => 1.0 / (sequences * max_new_tokens.max(1) as f64),
    };
    lengths.iter().map(|length| weight(length) as f32).collect()
}

/// Per-token inputs of the loss, each (N), all but `log_probs` without gradient.
pub struct TokenInputs<'a> {
    /// Under the policy that is trained.
    pub log_probs: &'a Tensor,
    /// Under the policy at the start of the batch (the proximal policy).
    pub old_log_probs: &'a Tensor,
    /// Under the engine that sampled.
    pub rollout_log_probs: &'a Tensor,
    /// Under the base model; only where the KL term is on.
    pub ref_log_probs: Option<&'a Tensor>,
    pub advantages: &'a Tensor,
    /// From [`token_weights`].
    pub weights: &'a Tensor,
}

/// The loss of some tokens, and what is worth logging about it (each already weighed).
pub struct TokenLoss {
    /// Scalar, with gradient.
    pub total: Tensor,
    pub pg_loss: f64,
    pub kl_loss: f64,
    /// Weighed share of tokens where the clipped term was taken.
    pub clip_fraction: f64,
}

/// Σ weight · ( w_is · max(−r·A, −clip(r)·A) + β·k3 ), with r = π / π_old, w_is = min(π_old / π_engine, C) and
/// k3 = π_ref/π − ln(π_ref/π) − 1 (Schulman, "Approximating KL divergence").
pub fn grpo(config: &LossConfig, inputs: &TokenInputs) -> Result<TokenLoss> {
    let ratio = (inputs.log_probs - inputs.old_log_probs)?.exp()?;
    let clipped = ratio.clamp(1.0 - config.clip_ratio_low, 1.0 + config.clip_ratio_high)?;
    let (free, bound) = ((&ratio * inputs.advantages)?.neg()?, (&clipped * inputs.advantages)?.neg()?);
    let is_clipped = bound.detach().gt(&free.detach())?.to_dtype(DType::F32)?;
    let weights = match config.rollout_is {
        true => (inputs.weights * truncated_ratio(inputs, config.rollout_is_threshold)?)?,
        false => inputs.weights.clone(),
    };
    let pg_loss = (free.maximum(&bound)? * &weights)?.sum_all()?;
    let kl_loss = match inputs.ref_log_probs {
        Some(reference) => (k3(reference, inputs.log_probs)? * inputs.weights)?.sum_all()?,
        None => Tensor::zeros_like(&pg_loss)?,
    };
    Ok(TokenLoss {
        pg_loss: scalar(&pg_loss)?,
        kl_loss: scalar(&kl_loss)?,
        clip_fraction: scalar(&(is_clipped * inputs.weights)?.sum_all()?)?,
        total: (pg_loss + (kl_loss * config.kl_loss_coef)?)?,
    })
}

fn truncated_ratio(inputs: &TokenInputs, cap: f64) -> Result<Tensor> {
    (inputs.old_log_probs - inputs.rollout_log_probs)?.detach().exp()?.clamp(0.0, cap)
}

/// The k3 estimate of KL(policy ‖ reference), per token, never negative.
pub fn k3(reference: &Tensor, log_probs: &Tensor) -> Result<Tensor> {
    let difference = (reference - log_probs)?;
    (difference.exp()? - &difference)? - 1.0
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.to_scalar::<f32>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn weights_of_each_mode() {
        let check = |mode, expected: [f32; 2]| assert_eq!(token_weights(mode, &[1, 3], 8), expected, "{mode:?}");
        check(LossAggMode::TokenMean, [0.25, 0.25]);
        check(LossAggMode::SeqMeanTokenMean, [0.5, 1.0 / 6.0]);
        check(LossAggMode::SeqMeanTokenSum, [0.5, 0.5]);
        check(LossAggMode::SeqMeanTokenSumNorm, [0.0625, 0.0625]);
    }

    struct Token {
        log_prob: f32,
        old: f32,
        rollout: f32,
        advantage: f32,
    }

    /// Loss and gradient of one token of weight 1.
    fn one(config: &LossConfig, token: Token) -> (f64, f32) {
        let cpu = &Device::Cpu;
        let log_probs = Var::new(&[token.log_prob], cpu).unwrap();
        let [old, rollout, advantage, weight, reference] =
            [token.old, token.rollout, token.advantage, 1.0, -1.0].map(|x| Tensor::new(&[x], cpu).unwrap());
        let inputs = TokenInputs {
            log_probs: &log_probs,
            old_log_probs: &old,
            rollout_log_probs: &rollout,
            ref_log_probs: (config.kl_loss_coef > 0.0).then_some(&reference),
            advantages: &advantage,
            weights: &weight,
        };
        let loss = grpo(config, &inputs).unwrap().total;
        let grads = loss.backward().unwrap();
        (scalar(&loss).unwrap(), grads.get(&log_probs).unwrap().to_vec1::<f32>().unwrap()[0])
    }

    fn check(config: &LossConfig, token: Token, expected: (f64, f32)) {
        let (loss, grad) = one(config, token);
        assert!(
            (loss - expected.0).abs() < 1e-5 && (grad - expected.1).abs() < 1e-5,
            "({loss}, {grad}) not {expected:?}"
        );
    }

    #[test]
    fn clipping_follows_the_sign_of_the_advantage() {
        let config = LossConfig { rollout_is: false, clip_ratio_high: 0.3, ..LossConfig::default() };
        let token = |ratio: f32, advantage| Token { log_prob: ratio.ln() - 1.0, old: -1.0, rollout: -1.0, advantage };
        check(&config, token(1.0, 2.0), (-2.0, -2.0));
        check(&config, token(1.5, 2.0), (-2.6, 0.0)); // beyond the upper clip: no gradient
        check(&config, token(1.5, -2.0), (3.0, 3.0)); // a worse action that got likelier is pushed back
        check(&config, token(0.5, -2.0), (1.6, 0.0)); // beyond the lower clip
        check(&config, token(0.5, 2.0), (-1.0, -1.0));
    }

    #[test]
    fn importance_weights_are_truncated_and_carry_no_gradient() {
        let config = LossConfig { rollout_is_threshold: 2.0, ..LossConfig::default() };
        let token = |rollout| Token { log_prob: -1.0, old: -1.0, rollout, advantage: 1.0 };
        check(&config, token(-1.0 - 1.5f32.ln()), (-1.5, -1.5));
        check(&config, token(-5.0), (-2.0, -2.0));
    }

    #[test]
    fn k3_is_added_with_its_coefficient() {
        let config = LossConfig { rollout_is: false, kl_loss_coef: 0.5, ..LossConfig::default() };
        let token = Token { log_prob: -2.0, old: -2.0, rollout: -2.0, advantage: 0.0 };
        let ratio = 1.0f32.exp(); // π_ref / π
        check(&config, token, (0.5 * f64::from(ratio - 1.0 - 1.0), 0.5 * (1.0 - ratio)));
    }
}
