//! The loss of a batch: a policy loss for each token, a KL term, an entropy bonus, and how tokens are weighed into one
//! number. Pure functions.

mod terms;

use candle_core::{DType, Result, Tensor};

use crate::config::loss::{KlKind, LossAggMode, LossConfig, RolloutIs};

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

/// Per-token inputs of the loss, each (N), all but `log_probs` and `entropies` without gradient.
pub struct TokenInputs<'a> {
    /// Under the policy that is trained.
    pub log_probs: &'a Tensor,
    /// Of the policy's distributions; their gradient is needed where the bonus is on.
    pub entropies: &'a Tensor,
    /// Under the policy at the start of the batch (the proximal policy).
    pub old_log_probs: &'a Tensor,
    /// Under the engine that sampled.
    pub rollout_log_probs: &'a Tensor,
    /// Under the base model; only where the KL term is on.
    pub ref_log_probs: Option<&'a Tensor>,
    pub advantages: &'a Tensor,
    /// From [`token_weights`].
    pub weights: &'a Tensor,
    /// Tokens of each sequence: which of the N tokens belong together.
    pub lengths: &'a [usize],
}

/// The loss of some tokens, and what is worth logging about it (the losses already weighed).
pub struct TokenLoss {
    /// Scalar, with gradient.
    pub total: Tensor,
    /// What [`TokenSums`] says, on the device (4): reading it waits for all that was computed.
    pub sums: Tensor,
}

/// Sums over tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenSums {
    pub pg_loss: f64,
    pub kl_loss: f64,
    /// Σ weight over the tokens where the clipped term was taken, and over all.
    pub clipped_weight: f64,
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

/// Σ weight · ( w_is · term + β·kl − c·H ), with the policy loss's term of each token.
pub fn policy_loss(config: &LossConfig, inputs: &TokenInputs) -> Result<TokenLoss> {
    let (term, is_clipped) = terms::term(config.kind)(config, inputs)?;
    let weights = (inputs.weights * importance(config, inputs)?)?;
    let pg_loss = (term * &weights)?.sum_all()?;
    let kl_loss = match inputs.ref_log_probs {
        Some(reference) => (kl(config.kl_loss_type, reference, inputs.log_probs)? * inputs.weights)?.sum_all()?,
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

/// What each token's loss is multiplied by for the difference between engine and trainer.
fn importance(config: &LossConfig, inputs: &TokenInputs) -> Result<Tensor> {
    let cap = config.rollout_is_threshold;
    let weight = (inputs.old_log_probs - inputs.rollout_log_probs)?.detach().exp()?;
    match config.rollout_is {
        RolloutIs::None => weight.ones_like(),
        RolloutIs::Truncate => weight.clamp(0.0, cap),
        RolloutIs::Mask => {
            let is_near = (weight.le(cap)?.to_dtype(DType::F32)? * weight.ge(1.0 / cap)?.to_dtype(DType::F32)?)?;
            weight.clamp(0.0, cap)? * is_near
        }
    }
}

/// An estimate of KL(policy ‖ reference) for each token.
pub fn kl(kind: KlKind, reference: &Tensor, log_probs: &Tensor) -> Result<Tensor> {
    let difference = (reference - log_probs)?;
    match kind {
        KlKind::K1 => difference.neg(),
        KlKind::K2 => difference.sqr()? * 0.5,
        KlKind::K3 => (difference.exp()? - &difference)? - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advantage::AdvantageScale;
    use crate::config::loss::LossKind;
    use candle_core::{Device, Var};

    fn scalar(x: &Tensor) -> Result<f64> {
        Ok(f64::from(x.to_scalar::<f32>()?))
    }

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
            entropies: &log_probs.detach(),
            lengths: &[1],
            old_log_probs: &old,
            rollout_log_probs: &rollout,
            ref_log_probs: (config.kl_loss_coef > 0.0).then_some(&reference),
            advantages: &advantage,
            weights: &weight,
        };
        let loss = policy_loss(config, &inputs).unwrap().total;
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
        let config = LossConfig { rollout_is: RolloutIs::None, clip_ratio_high: 0.3, ..LossConfig::default() };
        let token = |ratio: f32, advantage| Token { log_prob: ratio.ln() - 1.0, old: -1.0, rollout: -1.0, advantage };
        check(&config, token(1.0, 2.0), (-2.0, -2.0));
        check(&config, token(1.5, 2.0), (-2.6, 0.0)); // beyond the upper clip: no gradient
        check(&config, token(1.5, -2.0), (3.0, 3.0)); // a worse action that got likelier is pushed back
        check(&config, token(0.5, -2.0), (1.6, 0.0)); // beyond the lower clip
        check(&config, token(0.5, 2.0), (-1.0, -1.0));
        let dual = LossConfig { clip_ratio_c: 3.0, ..config };
        check(&dual, token(2.0, -2.0), (4.0, 4.0));
        check(&dual, token(4.0, -2.0), (6.0, 0.0)); // no further than three times
        check(&dual, token(4.0, 2.0), (-2.6, 0.0));
    }

    #[test]
    fn cispo_bounds_the_weight_and_keeps_the_gradient() {
        let (mut config, mut scale) =
            (LossConfig { rollout_is: RolloutIs::None, ..LossConfig::default() }, AdvantageScale::GroupStd);
        LossKind::Cispo.apply(&mut config, &mut scale);
        let token = |ratio: f32, advantage| Token { log_prob: -1.0, old: -1.0 - ratio.ln(), rollout: -1.0, advantage };
        check(&config, token(2.0, 3.0), (6.0, -6.0));
        check(&config, token(8.0, 3.0), (15.0, -15.0));
        check(&config, token(0.01, -1.0), (-0.01, 0.01));
    }

    /// Two sequences of two tokens: ratios e^0.3 and e^−0.1 make s = e^0.1; e^−1 and e^−1 are beyond the clip.
    #[test]
    fn gspo_has_one_ratio_a_sequence() {
        let (mut config, mut scale) =
            (LossConfig { rollout_is: RolloutIs::None, ..LossConfig::default() }, AdvantageScale::GroupStd);
        LossKind::Gspo.apply(&mut config, &mut scale);
        config.clip_ratio_high = 0.2;
        let cpu = &Device::Cpu;
        let log_probs = Var::new(&[-0.7f32, -1.1, -2.0, -2.0], cpu).unwrap();
        let ones = Tensor::ones(4, DType::F32, cpu).unwrap();
        let inputs = TokenInputs {
            log_probs: &log_probs,
            entropies: &ones,
            old_log_probs: &ones.neg().unwrap(),
            rollout_log_probs: &ones,
            ref_log_probs: None,
            advantages: &Tensor::new(&[1.0f32, 1.0, -1.0, -1.0], cpu).unwrap(),
            weights: &ones,
            lengths: &[2, 2],
        };
        let loss = policy_loss(&config, &inputs).unwrap();
        let (s, bound) = (0.1f64.exp(), 1.0 - 3e-4);
        assert!((scalar(&loss.total).unwrap() - (-2.0 * s + 2.0 * bound)).abs() < 1e-5);
        let grads = loss.total.backward().unwrap().get(&log_probs).unwrap().to_vec1::<f32>().unwrap();
        assert!(
            grads.iter().zip([-s, -s, 0.0, 0.0]).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5),
            "{grads:?}"
        );
        let TokenSums { clipped_weight, weight, .. } = loss.read().unwrap();
        assert_eq!((clipped_weight, weight), (2.0, 4.0));
    }

    #[test]
    fn entropy_is_a_bonus() {
        let cpu = &Device::Cpu;
        let config = LossConfig { entropy_coef: 0.5, rollout_is: RolloutIs::None, ..LossConfig::default() };
        let (entropies, zero) = (Var::new(&[3.0f32], cpu).unwrap(), Tensor::new(&[0.0f32], cpu).unwrap());
        let inputs = TokenInputs {
            log_probs: &zero,
            entropies: &entropies,
            old_log_probs: &zero,
            rollout_log_probs: &zero,
            ref_log_probs: None,
            advantages: &zero,
            weights: &Tensor::new(&[0.25f32], cpu).unwrap(),
            lengths: &[1],
        };
        let total = policy_loss(&config, &inputs).unwrap().total;
        assert_eq!(scalar(&total).unwrap(), -0.375);
        assert_eq!(total.backward().unwrap().get(&entropies).unwrap().to_vec1::<f32>().unwrap(), [-0.125]);
    }

    #[test]
    fn importance_weights_are_truncated_and_carry_no_gradient() {
        let config = LossConfig { rollout_is_threshold: 2.0, ..LossConfig::default() };
        let token = |rollout| Token { log_prob: -1.0, old: -1.0, rollout, advantage: 1.0 };
        check(&config, token(-1.0 - 1.5f32.ln()), (-1.5, -1.5));
        check(&config, token(-5.0), (-2.0, -2.0));
        let masked = LossConfig { rollout_is: RolloutIs::Mask, ..config };
        check(&masked, token(-1.0 - 1.5f32.ln()), (-1.5, -1.5));
        check(&masked, token(-5.0), (0.0, 0.0));
        check(&masked, token(-0.1), (0.0, 0.0));
    }

    #[test]
    fn each_kl_estimate_is_added_with_its_coefficient() {
        let ratio = 1.0f32.exp(); // π_ref / π
        for (kl_loss_type, loss, slope) in
            [(KlKind::K1, -1.0, 1.0), (KlKind::K2, 0.5, -1.0), (KlKind::K3, f64::from(ratio - 1.0 - 1.0), 1.0 - ratio)]
        {
            let config =
                LossConfig { rollout_is: RolloutIs::None, kl_loss_coef: 0.5, kl_loss_type, ..LossConfig::default() };
            let token = Token { log_prob: -2.0, old: -2.0, rollout: -2.0, advantage: 0.0 };
            check(&config, token, (0.5 * loss, 0.5 * slope));
        }
    }
}
