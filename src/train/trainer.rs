//! GRPO on a LoRA adapter: one policy step from one batch of scored completions.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use engine::decoder::{DecoderConfig, Weights};
use engine::{Adapter, LoraConfig};

use super::lora::Lora;
use super::loss::{self, LossConfig, TokenInputs};
use super::model::Model;
use super::optim::{AdamW, NamedGrads, OptimConfig};
use super::parallel::{self, Workers};
use super::stats::{Mismatch, StepStats};
use crate::batch::pack;

/// One completion, ready to be trained on.
#[derive(Debug, Clone)]
pub struct Sample {
    pub prompt: Arc<[u32]>,
    /// Sampled ids.
    pub completion: Vec<u32>,
    /// The engine's natural-log probabilities, one for each id of `completion`.
    pub rollout_log_probs: Vec<f32>,
    pub advantage: f32,
    /// The step of the policy that sampled it.
    pub policy_step: u64,
}

/// What the trainer needs to know beside the model.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    pub loss: LossConfig,
    pub optim: OptimConfig,
    /// The temperature that completions are sampled at.
    pub temperature: f64,
    /// Longest completion allowed.
    pub max_new_tokens: usize,
}

/// The result of one policy step.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The new policy.
    pub adapter: Adapter,
    pub stats: StepStats,
}

/// All that a resume needs, as the bytes of files.
#[derive(Debug, Clone)]
pub struct TrainerState {
    pub adapter: Adapter,
    /// The optimiser's moments, a safetensors file.
    pub optimizer: Vec<u8>,
    pub updates: u64,
}

/// Owns the policy and its optimiser.
pub struct Trainer {
    model: Model,
    lora: Lora,
    vars: BTreeMap<String, Var>,
    optimiser: AdamW,
    workers: Workers,
    settings: TrainerSettings,
    device: Device,
}

impl Trainer {
    /// A trainer whose adapter changes nothing yet; `seed` draws its A matrices.
    pub fn new(
        decoder: DecoderConfig,
        weights: Weights,
        lora: Arc<LoraConfig>,
        settings: TrainerSettings,
        seed: u64,
    ) -> candle_core::Result<Self> {
        let device = weights.norm.device().clone();
        let lora = Lora::init(lora, &decoder, seed, &device)?;
        Self::with_lora(Model::new(decoder, weights)?, lora, settings)
    }

    fn with_lora(model: Model, lora: Lora, settings: TrainerSettings) -> candle_core::Result<Self> {
        let device = model.weights.norm.device().clone();
        let vars = lora.vars();
        let optimiser = AdamW::new(settings.optim.clone(), vars.clone())?;
        let workers = if device.is_cpu() { Workers::per_core()? } else { Workers::new(1)? };
        Ok(Self { model, lora, vars, optimiser, workers, settings, device })
    }

    /// Puts the state of a checkpoint in place.
    ///
    /// # Errors
    /// If the adapter or the moments do not fit this model, or the adapter is of another rank, scale or extent.
    pub fn restore(self, state: &TrainerState) -> anyhow::Result<Self> {
        let (ours, saved) = (self.lora.config(), &state.adapter.config);
        let shape = |c: &LoraConfig| (c.r, c.lora_alpha, c.target_modules.clone());
        anyhow::ensure!(shape(ours) == shape(saved), "the adapter was made with {saved:?}, the settings are {ours:?}");
        let lora = Lora::from_adapter(&state.adapter, &self.model.config, &self.device)?;
        let mut trainer = Self::with_lora(self.model, lora, self.settings)?;
        let moments = candle_core::safetensors::load_buffer(&state.optimizer, &trainer.device)?;
        trainer.optimiser.restore(&moments.into_iter().collect(), state.updates)?;
        Ok(trainer)
    }

    /// The policy as it stands.
    pub fn adapter(&self) -> candle_core::Result<Adapter> {
        self.lora.to_adapter()
    }

    /// Everything that a resume needs.
    pub fn state(&self) -> candle_core::Result<TrainerState> {
        let (moments, updates) = self.optimiser.state();
        Ok(TrainerState { adapter: self.adapter()?, optimizer: super::tensors_to_bytes(&moments)?, updates })
    }

    /// Trains on one batch; `step` is the version of the policy that is trained.
    ///
    /// Completions without advantage have no gradient, so without a KL term their forward is left out; they still count
    /// in the average. The batch's loss does not depend on how it is cut into micro-batches.
    pub fn step(&mut self, step: u64, samples: &[Sample]) -> candle_core::Result<StepOutput> {
        let lengths: Vec<usize> = samples.iter().map(|s| s.completion.len()).collect();
        let token_weights =
            loss::token_weights(self.settings.loss.loss_agg_mode, &lengths, self.settings.max_new_tokens);
        let needs_all = self.settings.loss.kl_loss_coef > 0.0;
        let trained: Vec<usize> = (0..samples.len()).filter(|&i| needs_all || samples[i].advantage != 0.0).collect();
        let full: Vec<usize> = trained.iter().map(|&i| samples[i].prompt.len() + lengths[i]).collect();
        let groups = pack(&full, self.settings.loss.micro_batch_tokens);
        let mut micro_batches = self.workers.map(&groups, |group| {
            let members: Vec<(&Sample, f32)> =
                group.iter().map(|&at| (&samples[trained[at]], token_weights[trained[at]])).collect();
            let mut micro_batch = self.collate(&members)?;
            if needs_all {
                micro_batch.reference = Some(self.log_probs(&micro_batch, None)?.0.detach());
            }
            Ok(micro_batch)
        })?;
        let mut stats = StepStats::new(samples, step);
        for update in 0..self.settings.loss.updates_per_batch {
            let parts = self.workers.map(&micro_batches, |micro_batch| self.gradients(micro_batch))?;
            if update == 0 {
                for (micro_batch, part) in micro_batches.iter_mut().zip(&parts) {
                    stats.mismatch.add(
                        &part.log_probs.to_vec1()?,
                        &micro_batch.rollout.to_vec1()?,
                        &micro_batch.policy_steps,
                        step,
                    );
                    micro_batch.old = Some(part.log_probs.clone());
                }
            }
            self.update(parts, &mut stats)?;
        }
        stats.finish();
        Ok(StepOutput { adapter: self.adapter()?, stats })
    }

    fn update(&mut self, parts: Vec<Part>, stats: &mut StepStats) -> candle_core::Result<()> {
        parts.iter().for_each(|part| stats.add(&part.loss, part.entropy_sum, part.tokens, part.ppo_kl_sum));
        let grads = parallel::sum(parts.into_iter().map(|part| part.grads))?;
        let lr = self.optimiser.lr(1.0);
        let grad_norm = if grads.is_empty() { 0.0 } else { self.optimiser.step(&grads, lr)? };
        stats.updated(grad_norm, lr);
        Ok(())
    }

    /// The policy's log-probabilities of completions, without gradient: to compare with an engine's.
    pub fn score(&self, samples: &[Sample]) -> candle_core::Result<Vec<Vec<f32>>> {
        samples
            .iter()
            .map(|sample| self.log_probs(&self.collate(&[(sample, 0.0)])?, Some(&self.lora))?.0.to_vec1())
            .collect()
    }

    /// How far the engine's log-probabilities of `samples` are from the policy's, and what that does to importance weights.
    pub fn mismatch(&self, samples: &[Sample], step: u64) -> candle_core::Result<Mismatch> {
        let mut mismatch = Mismatch::default();
        for (sample, log_probs) in samples.iter().zip(self.score(samples)?) {
            mismatch.add(&log_probs, &sample.rollout_log_probs, &vec![sample.policy_step; log_probs.len()], step);
        }
        Ok(mismatch)
    }

    fn log_probs(&self, micro_batch: &MicroBatch, lora: Option<&Lora>) -> candle_core::Result<(Tensor, Tensor)> {
        let hidden = self.model.hidden(&micro_batch.tokens, lora)?;
        self.model.log_probs(&hidden, &micro_batch.positions, &micro_batch.targets, self.settings.temperature)
    }

    fn gradients(&self, micro_batch: &MicroBatch) -> candle_core::Result<Part> {
        let (log_probs, entropy) = self.log_probs(micro_batch, Some(&self.lora))?;
        let detached = log_probs.detach();
        let old = micro_batch.old.clone().unwrap_or_else(|| detached.clone());
        let inputs = TokenInputs {
            log_probs: &log_probs,
            old_log_probs: &old,
            rollout_log_probs: &micro_batch.rollout,
            ref_log_probs: micro_batch.reference.as_ref(),
            advantages: &micro_batch.advantages,
            weights: &micro_batch.weights,
        };
        let mut loss = loss::grpo(&self.settings.loss, &inputs)?;
        let grads = parallel::gradients(&loss.total, &self.vars)?;
        // The loss holds on to every activation of its micro-batch; they must not wait for the others.
        loss.total = loss.total.detach();
        Ok(Part {
            grads,
            entropy_sum: f64::from(entropy.sum_all()?.to_scalar::<f32>()?),
            ppo_kl_sum: f64::from((old - &detached)?.sum_all()?.to_scalar::<f32>()?),
            tokens: micro_batch.policy_steps.len(),
            log_probs: detached,
            loss,
        })
    }

    /// Lays out samples and their token weights as tensors.
    fn collate(&self, members: &[(&Sample, f32)]) -> candle_core::Result<MicroBatch> {
        if members.iter().any(|(sample, _)| sample.prompt.is_empty()) {
            candle_core::bail!("an empty prompt predicts nothing: its completion cannot be trained on");
        }
        let sequences: Vec<Vec<u32>> = members.iter().map(|(s, _)| [&s.prompt[..], &s.completion].concat()).collect();
        let (tokens, width) = super::pad(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>(), &self.device)?;
        let mut flat = FlatTokens::default();
        for (row, (sample, weight)) in members.iter().enumerate() {
            flat.extend(row * width + sample.prompt.len() - 1, sample, *weight);
        }
        let vector = |values: Vec<f32>| Tensor::new(values, &self.device);
        Ok(MicroBatch {
            tokens,
            positions: Tensor::new(flat.positions, &self.device)?,
            targets: Tensor::new(flat.targets, &self.device)?,
            rollout: vector(flat.rollout)?,
            advantages: vector(flat.advantages)?,
            weights: vector(flat.weights)?,
            policy_steps: flat.policy_steps,
            old: None,
            reference: None,
        })
    }
}

/// Tensors of one micro-batch: `tokens` is (B × T), everything else has one entry a completion token.
struct MicroBatch {
    tokens: Tensor,
    /// Rows of the flattened (B·T) hidden states that predict `targets`.
    positions: Tensor,
    targets: Tensor,
    rollout: Tensor,
    advantages: Tensor,
    weights: Tensor,
    policy_steps: Vec<u64>,
    /// Log-probabilities at the start of the batch, once known.
    old: Option<Tensor>,
    /// Log-probabilities under the base model, where the KL term is on.
    reference: Option<Tensor>,
}

#[derive(Default)]
struct FlatTokens {
    positions: Vec<u32>,
    targets: Vec<u32>,
    rollout: Vec<f32>,
    advantages: Vec<f32>,
    weights: Vec<f32>,
    policy_steps: Vec<u64>,
}

impl FlatTokens {
    /// `first` is the flat position of the prompt's last token, which predicts the completion's first.
    fn extend(&mut self, first: usize, sample: &Sample, weight: f32) {
        let n = sample.completion.len();
        assert_eq!(n, sample.rollout_log_probs.len(), "one log-probability a token: this is a bug in the engine");
        self.positions.extend((first..first + n).map(|p| p as u32));
        self.targets.extend(&sample.completion);
        self.rollout.extend(&sample.rollout_log_probs);
        self.advantages.resize(self.advantages.len() + n, sample.advantage);
        self.weights.resize(self.weights.len() + n, weight);
        self.policy_steps.resize(self.policy_steps.len() + n, sample.policy_step);
    }
}

/// What one micro-batch adds to an update.
struct Part {
    grads: NamedGrads,
    loss: loss::TokenLoss,
    log_probs: Tensor,
    entropy_sum: f64,
    ppo_kl_sum: f64,
    tokens: usize,
}
