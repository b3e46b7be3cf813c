//! GRPO on a LoRA adapter: one policy step from one batch of scored completions.
//!
//! A batch is cut into mini-batches, one for each optimiser update, and those into micro-batches. The loss of a batch does
//! not depend on how it is cut into micro-batches.

mod passes;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use candle_core::{Device, Result, Tensor, Var};
use engine::decoder::{DecoderConfig, Weights};
use engine::{Adapter, LoraConfig};
use tokio::sync::watch;

use self::passes::{MicroBatchOutput, read_sums};
use super::collate::MicroBatch;
use super::give_up::GiveUp;
use super::lora::Lora;
use super::loss::{TokenSums, token_weights};
use super::lr_schedule::learning_rate;
use super::micro_batch::{PackItem, pack};
use super::model::Model;
use super::optim::{AdamW, NamedGrads};
use super::parallel::Workers;
use super::sample::Sample;
use super::stats::{Mismatch, StepStats};
use crate::config::loss::LossConfig;
use crate::config::optim::OptimConfig;
use crate::config::trainer::TrainerConfig;

/// What the trainer needs to know besides the model.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    pub loss: LossConfig,
    pub optim: OptimConfig,
    pub trainer: TrainerConfig,
    /// The temperature at which completions are sampled.
    pub temperature: f64,
    /// Longest completion allowed.
    pub max_new_tokens: usize,
    /// Planned optimiser updates of a step and of the whole run. The learning-rate schedule follows this plan, even if a
    /// step has fewer prompts or skips an update because its gradient is not finite.
    pub updates_per_step: u64,
    pub total_updates: u64,
    /// Whether the gradient of each distribution is sketched. Then a micro-batch has samples of one distribution only.
    pub sketches_gradients: bool,
    /// Threads that compute micro-batches at the same time.
    pub workers: usize,
}

/// The result of one policy step.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The new policy.
    pub adapter: Adapter,
    pub stats: StepStats,
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
    /// A trainer on `device` with a new adapter, which changes nothing yet; `seed` draws its A matrices.
    ///
    /// Base weights on another device stay there. Then every computation needs [`Trainer::fetched`].
    pub fn new(
        device: Device,
        decoder: DecoderConfig,
        weights: Weights,
        lora: Arc<LoraConfig>,
        settings: TrainerSettings,
        seed: u64,
    ) -> Result<Self> {
        let lora = Lora::init(lora, &decoder, seed, &device)?;
        Self::with_lora(Model::new(decoder, weights), lora, settings, device)
    }

    fn with_lora(model: Model, lora: Lora, settings: TrainerSettings, device: Device) -> Result<Self> {
        let vars = lora.vars();
        let optimiser = AdamW::new(settings.optim.clone(), vars.clone())?;
        let workers = Workers::new(settings.workers)?;
        Ok(Self { model, lora, vars, optimiser, workers, settings, device })
    }

    /// The same trainer on the operators that run on any device, even where faster ones exist.
    pub fn on_plain_operators(self) -> Self {
        Self { model: self.model.on_plain_operators(), ..self }
    }

    /// Runs `f` while the base weights are on the trainer's device. Copies made for this are dropped afterwards; weights
    /// that are already there are not moved.
    pub fn fetched<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let fetched = self.model.weights.to_device(&self.device)?;
        let resting = std::mem::replace(&mut self.model.weights, fetched);
        let result = f(self);
        self.model.weights = resting;
        result
    }

    /// The current policy.
    pub fn adapter(&self) -> Result<Adapter> {
        self.lora.to_adapter()
    }

    /// Trains on one batch. `step` is the version of the policy that is trained. Samples of one prompt must be adjacent.
    ///
    /// A completion without advantage has no policy gradient. Without a KL term and an entropy bonus its forward is
    /// skipped; it still counts in the average.
    pub fn step(&mut self, step: u64, samples: &[Sample]) -> Result<StepOutput> {
        let mut mini_batches = self.mini_batches(samples)?;
        if mini_batches.len() > 1 {
            // Later updates still need the policy from before the first one.
            for mini_batch in &mut mini_batches {
                let old = self.workers.map(mini_batch, |m| self.log_probs(m, Some(&self.lora)))?;
                mini_batch.iter_mut().zip(old).for_each(|(micro_batch, old)| micro_batch.old = Some(old));
            }
        }
        let mut stats = StepStats::new(samples, step);
        let mut update = step * self.settings.updates_per_step;
        for epoch in 0..self.settings.trainer.ppo_epochs {
            for mini_batch in &mut mini_batches {
                let (grads, outputs) = self.workers.sum(mini_batch, |micro_batch| self.gradients(micro_batch))?;
                if epoch == 0 {
                    for (micro_batch, output) in mini_batch.iter_mut().zip(&outputs) {
                        let old: &Tensor = micro_batch.old.get_or_insert_with(|| output.log_probs.clone());
                        let trainer = old.to_vec1()?;
                        stats.mismatch.add(&trainer, &micro_batch.rollout_values, &micro_batch.policy_steps, step);
                        if let Some(sketch) = &output.sketch {
                            stats.add_gradient(micro_batch.source, sketch);
                        }
                    }
                }
                self.update(update, &grads, &outputs, &mut stats)?;
                update += 1;
            }
        }
        stats.finish();
        Ok(StepOutput { adapter: self.adapter()?, stats })
    }

    /// Once `asked` turns true, a computation that runs ends early. The result grows while something is computed.
    pub fn give_up_when(&mut self, asked: watch::Receiver<bool>) -> Arc<AtomicU64> {
        self.model.give_up = GiveUp::when(asked);
        self.model.give_up.blocks()
    }

    /// As [`Trainer::step`]. `None` if the step was given up: then policy and optimiser are those from before it.
    pub fn step_unless_given_up(&mut self, step: u64, samples: &[Sample]) -> Result<Option<StepOutput>> {
        // A single update is the last thing that a step does.
        let before = if self.settings.updates_per_step > 1 { Some(self.state()?) } else { None };
        match self.step(step, samples) {
            Err(_) if self.model.give_up.is_asked() => {
                before.map_or(Ok(()), |before| self.put_back(&before))?;
                Ok(None)
            }
            output => output.map(Some),
        }
    }

    /// Natural-log probabilities of completions under the policy, without gradient.
    pub fn score(&self, samples: &[Sample]) -> Result<Vec<Vec<f32>>> {
        let one = |sample| {
            let micro_batch = MicroBatch::collate(&self.model, &self.device, &[(sample, 0.0)])?;
            self.log_probs(&micro_batch, Some(&self.lora))?.to_vec1()
        };
        samples.iter().map(one).collect()
    }

    /// The gap between the engine's log-probabilities of `samples` and the policy's.
    pub fn mismatch(&self, samples: &[Sample], step: u64) -> Result<Mismatch> {
        let mut mismatch = Mismatch::default();
        for (sample, log_probs) in samples.iter().zip(self.score(samples)?) {
            mismatch.add(&log_probs, &sample.rollout_log_probs, &vec![sample.policy_step; log_probs.len()], step);
        }
        Ok(mismatch)
    }

    /// The micro-batches of each optimiser update.
    fn mini_batches(&self, samples: &[Sample]) -> Result<Vec<Vec<MicroBatch>>> {
        let masks_truncated = self.settings.loss.mask_truncated;
        let counted: Vec<&Sample> = samples.iter().filter(|s| !(masks_truncated && s.truncated)).collect();
        let groups: Vec<&[&Sample]> = counted.chunk_by(|a, b| a.group == b.group).collect();
        let size = match self.settings.trainer.ppo_mini_batch_size {
            0 => groups.len(),
            size => size,
        };
        groups.chunks(size.max(1)).map(|groups| self.micro_batches(&groups.concat())).collect()
    }

    /// The micro-batches of one optimiser update. Neighbours with equal prompts share their rows, whatever their groups.
    fn micro_batches(&self, samples: &[&Sample]) -> Result<Vec<MicroBatch>> {
        let loss = &self.settings.loss;
        let needs_all = loss.kl_loss_coef > 0.0 || loss.entropy_coef != 0.0;
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.completion.len()).collect();
        let mut weights = token_weights(loss.loss_agg_mode, &lengths, self.settings.max_new_tokens).into_iter();
        let (mut members, mut items) = (Vec::new(), Vec::new());
        for (group, samples) in samples.chunk_by(|a, b| a.prompt == b.prompt).enumerate() {
            for (sample, weight) in samples.iter().zip(&mut weights) {
                if needs_all || sample.advantage != 0.0 {
                    members.push((*sample, weight));
                    let (shared_tokens, own_tokens) = (sample.prompt.len(), sample.completion.len());
                    items.push(PackItem { group, shared_tokens, own_tokens });
                }
            }
        }
        let packed = self.pack(&members, &items);
        self.workers.map(&packed, |indices| {
            let members: Vec<_> = indices.iter().map(|i| members[*i]).collect();
            let mut micro_batch = MicroBatch::collate(&self.model, &self.device, &members)?;
            if loss.kl_loss_coef > 0.0 {
                micro_batch.reference = Some(self.log_probs(&micro_batch, None)?);
            }
            Ok(micro_batch)
        })
    }

    /// The indices of each micro-batch.
    fn pack(&self, members: &[(&Sample, f32)], items: &[PackItem]) -> Vec<Vec<usize>> {
        let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, (sample, _)) in members.iter().enumerate() {
            let part = if self.settings.sketches_gradients { sample.source } else { 0 };
            by_source.entry(part).or_default().push(index);
        }
        let pack_part = |part: Vec<usize>| {
            let items: Vec<PackItem> = part.iter().map(|index| items[*index]).collect();
            let packed = pack(&items, self.settings.trainer.micro_batch_tokens, self.workers.count());
            packed.into_iter().map(move |micro_batch| micro_batch.iter().map(|at| part[*at]).collect())
        };
        by_source.into_values().flat_map(pack_part).collect()
    }

    /// Makes update `update` of the run (from 0).
    fn update(
        &mut self,
        update: u64,
        grads: &NamedGrads,
        outputs: &[MicroBatchOutput],
        stats: &mut StepStats,
    ) -> Result<()> {
        for (output, [loss @ .., entropy, ppo_kl]) in outputs.iter().zip(read_sums(outputs)?) {
            stats.add(TokenSums::new(loss), entropy, output.tokens, ppo_kl);
        }
        stats.recomputed |= outputs.iter().any(|output| output.recomputed);
        let lr = learning_rate(&self.settings.optim, update, self.settings.total_updates);
        let grad_norm = if grads.is_empty() { 0.0 } else { self.optimiser.step(grads, lr)? };
        stats.updated(grad_norm, lr);
        Ok(())
    }
}
