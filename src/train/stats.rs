//! Metrics of one policy step, under the names that are usual in the field.

use super::loss::TokenSums;
use super::sample::Sample;
use crate::curriculum::Gradients;
use crate::metric_names as names;

/// The gap between the engine's log-probabilities and the trainer's.
#[derive(Debug, Clone, Default)]
pub struct Mismatch {
    tokens: usize,
    /// Σ (engine − trainer), an estimate of KL(engine ‖ trainer).
    k1_sum: f64,
    /// Σ (e^d − d − 1) with d = trainer − engine: another estimate of the same, never negative.
    k3_sum: f64,
    ratio_sum: f64,
    ratio_square_sum: f64,
    /// Tokens that the current policy sampled.
    on_policy_tokens: usize,
    /// Largest |engine − trainer| over them. It is 0, up to rounding, if both are right.
    pub on_policy_max: f64,
}

impl Mismatch {
    /// Adds tokens: the log-probabilities of trainer and engine, and the policy step that sampled each token.
    pub fn add(&mut self, trainer: &[f32], engine: &[f32], policy_steps: &[u64], step: u64) {
        assert!(trainer.len() == engine.len() && engine.len() == policy_steps.len(), "one entry per token");
        for ((&trainer, &engine), &sampled_at) in trainer.iter().zip(engine).zip(policy_steps) {
            let difference = f64::from(trainer) - f64::from(engine);
            let ratio = difference.exp();
            self.tokens += 1;
            self.k1_sum -= difference;
            self.k3_sum += ratio - difference - 1.0;
            self.ratio_sum += ratio;
            self.ratio_square_sum += ratio * ratio;
            if sampled_at == step {
                // NaN must count as infinite, not as zero.
                let size = if difference.is_nan() { f64::INFINITY } else { difference.abs() };
                self.on_policy_max = self.on_policy_max.max(size);
                self.on_policy_tokens += 1;
            }
        }
    }

    /// [`Mismatch::on_policy_max`]; `None` if the current policy sampled no token.
    pub fn on_policy(&self) -> Option<f64> {
        (self.on_policy_tokens > 0).then_some(self.on_policy_max)
    }

    fn metrics(&self) -> [(&'static str, f64); 5] {
        let n = self.tokens.max(1) as f64;
        // Effective sample size as a share of n: (Σw)² / (n·Σw²).
        let effective = if self.tokens == 0 { 1.0 } else { self.ratio_sum.powi(2) / (n * self.ratio_square_sum) };
        [
            (names::MISMATCH_KL, self.k1_sum / n),
            (names::MISMATCH_K3_KL, self.k3_sum / n),
            (names::MISMATCH_IS_MEAN, if self.tokens == 0 { 1.0 } else { self.ratio_sum / n }),
            (names::MISMATCH_IS_EFF_SAMPLE_SIZE, effective),
            (names::MISMATCH_ON_POLICY_MAX_DIFF, self.on_policy_max),
        ]
    }
}

/// The metrics of one policy step.
///
/// Without a KL term and an entropy bonus, completions of advantage 0 have no forward. Then entropy, ppo_kl and
/// rollout_corr only cover the other completions.
#[derive(Debug, Clone)]
pub struct StepStats {
    pub mismatch: Mismatch,
    /// Policy steps between sampling and training: mean and maximum over the completions.
    off_policy_mean: f64,
    off_policy_max: f64,
    pg_loss: f64,
    kl_loss: f64,
    clipped_weight: f64,
    weight: f64,
    entropy_sum: f64,
    ppo_kl_sum: f64,
    tokens: usize,
    updates: usize,
    grad_norm: f64,
    lr: f64,
    /// Updates that were skipped because the gradient was not finite.
    pub skipped_updates: usize,
    /// A sketch of the gradient of each distribution, if the curriculum learns from them.
    pub gradients: Gradients,
    /// Whether the backward pass of any micro-batch computed blocks again.
    pub recomputed: bool,
}

impl StepStats {
    /// Before any update: only the ages of `samples` at `step` are known.
    pub fn new(samples: &[Sample], step: u64) -> Self {
        let ages = samples.iter().map(|s| step.saturating_sub(s.policy_step));
        Self {
            mismatch: Mismatch::default(),
            off_policy_mean: ages.clone().sum::<u64>() as f64 / samples.len().max(1) as f64,
            off_policy_max: ages.max().unwrap_or(0) as f64,
            pg_loss: 0.0,
            kl_loss: 0.0,
            clipped_weight: 0.0,
            weight: 0.0,
            entropy_sum: 0.0,
            ppo_kl_sum: 0.0,
            tokens: 0,
            updates: 0,
            grad_norm: 0.0,
            lr: 0.0,
            skipped_updates: 0,
            gradients: Gradients::new(),
            recomputed: false,
        }
    }

    pub(super) fn add(&mut self, loss: TokenSums, entropy_sum: f32, tokens: usize, ppo_kl_sum: f32) {
        self.pg_loss += loss.pg_loss;
        self.kl_loss += loss.kl_loss;
        self.clipped_weight += loss.clipped_weight;
        self.weight += loss.weight;
        self.entropy_sum += f64::from(entropy_sum);
        self.ppo_kl_sum += f64::from(ppo_kl_sum);
        self.tokens += tokens;
    }

    /// Adds a part of a distribution's gradient.
    pub(super) fn add_gradient(&mut self, source: usize, sketch: &[f32]) {
        let sum = self.gradients.entry(source).or_insert_with(|| vec![0.0; sketch.len()]);
        sum.iter_mut().zip(sketch).for_each(|(sum, part)| *sum += part);
    }

    pub(super) fn updated(&mut self, grad_norm: f64, lr: f64) {
        self.updates += 1;
        self.grad_norm += grad_norm;
        self.lr = lr;
        self.skipped_updates += usize::from(!grad_norm.is_finite());
    }

    /// Turns sums over updates into means, and drops gradients that are not finite.
    pub(super) fn finish(&mut self) {
        let n = self.updates.max(1) as f64;
        for value in [&mut self.pg_loss, &mut self.kl_loss, &mut self.grad_norm] {
            *value /= n;
        }
        // They say nothing, and JSON has no such numbers.
        self.gradients.retain(|_, gradient| gradient.iter().all(|value| value.is_finite()));
    }

    /// Name and value of every metric. Entropy is left out if no token was trained on.
    pub fn metrics(&self) -> Vec<(&'static str, f64)> {
        let tokens = self.tokens.max(1) as f64;
        let mut all = vec![
            (names::PG_LOSS, self.pg_loss),
            (names::KL_LOSS, self.kl_loss),
            (names::PG_CLIPFRAC, if self.weight > 0.0 { self.clipped_weight / self.weight } else { 0.0 }),
            (names::PPO_KL, self.ppo_kl_sum / tokens),
            (names::GRAD_NORM, self.grad_norm),
            (names::LR, self.lr),
            (names::SKIPPED_UPDATES, self.skipped_updates as f64),
            (names::OFF_POLICY_MEAN, self.off_policy_mean),
            (names::OFF_POLICY_MAX, self.off_policy_max),
        ];
        if self.tokens > 0 {
            all.push((names::ENTROPY, self.entropy_sum / tokens));
        }
        all.extend(self.mismatch.metrics());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_that_are_not_finite_are_dropped() {
        let mut stats = StepStats::new(&[], 0);
        for (source, part) in [(0, [1.0, 2.0]), (1, [1.0, f32::NAN]), (0, [0.5, 0.5]), (1, [1.0, 1.0])] {
            stats.add_gradient(source, &part);
        }
        stats.finish();
        assert_eq!(stats.gradients, [(0, vec![1.5, 2.5])].into());
    }

    #[test]
    fn equal_log_probs_have_no_mismatch() {
        let mut mismatch = Mismatch::default();
        mismatch.add(&[-1.0, -2.0], &[-1.0, -2.0], &[3, 3], 3);
        let values: Vec<f64> = mismatch.metrics().iter().map(|m| m.1).collect();
        assert_eq!(values, [0.0, 0.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn only_tokens_of_the_current_policy_count_as_engine_mismatch() {
        let mut mismatch = Mismatch::default();
        mismatch.add(&[-1.0, -2.0], &[-1.5, -2.25], &[2, 3], 3);
        assert_eq!((mismatch.on_policy_max, mismatch.on_policy()), (0.25, Some(0.25)));
        let mut stale = Mismatch::default();
        stale.add(&[-1.0, -2.0], &[-1.5, -2.25], &[1, 2], 3);
        assert_eq!(stale.on_policy(), None);
        let mut broken = Mismatch::default();
        broken.add(&[f32::NAN], &[-1.0], &[3], 3);
        assert_eq!(broken.on_policy_max, f64::INFINITY);
        let kl = mismatch.metrics()[0].1;
        assert!((kl + 0.375).abs() < 1e-9, "{kl}");
        let effective = mismatch.metrics()[3].1;
        let (a, b) = (0.5f64.exp(), 0.25f64.exp());
        assert!((effective - (a + b).powi(2) / (2.0 * (a * a + b * b))).abs() < 1e-9);
    }
}
