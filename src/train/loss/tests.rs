//! Losses and gradients of single tokens and sequences, computed by hand.

use candle_core::{DType, Device, Var};

use super::*;
use crate::advantage::AdvantageScale;
use crate::config::loss::{KlKind, LossKind, RolloutIs};

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.to_scalar::<f32>()?))
}

struct Token {
    log_prob: f32,
    old: f32,
    rollout: f32,
    advantage: f32,
}

/// Loss and gradient of one token of weight 1, with π_ref = e^−1.
fn loss_of_one(config: &LossConfig, token: Token) -> (f64, f32) {
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
    let (loss, grad) = loss_of_one(config, token);
    assert!((loss - expected.0).abs() < 1e-5 && (grad - expected.1).abs() < 1e-5, "({loss}, {grad}) not {expected:?}");
}

#[test]
fn clipping_follows_the_sign_of_the_advantage() {
    let config = LossConfig { rollout_is: RolloutIs::None, clip_ratio_high: 0.3, ..LossConfig::default() };
    let token = |ratio: f32, advantage| Token { log_prob: ratio.ln() - 1.0, old: -1.0, rollout: -1.0, advantage };
    check(&config, token(1.0, 2.0), (-2.0, -2.0));
    check(&config, token(1.5, 2.0), (-2.6, 0.0)); // beyond the upper clip: no gradient
    check(&config, token(1.5, -2.0), (3.0, 3.0)); // no clip: a bad action became more likely and is pushed back
    check(&config, token(0.5, -2.0), (1.6, 0.0)); // beyond the lower clip
    check(&config, token(0.5, 2.0), (-1.0, -1.0));
    let dual = LossConfig { clip_ratio_c: 3.0, ..config };
    check(&dual, token(2.0, -2.0), (4.0, 4.0));
    check(&dual, token(4.0, -2.0), (6.0, 0.0)); // the dual clip: at most three times |A|
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

/// Two sequences of two tokens. Ratios e^0.3 and e^−0.1 give s = e^0.1; e^−1 and e^−1 are beyond the lower clip.
#[test]
fn gspo_has_one_ratio_per_sequence() {
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
    assert!(grads.iter().zip([-s, -s, 0.0, 0.0]).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5), "{grads:?}");
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
