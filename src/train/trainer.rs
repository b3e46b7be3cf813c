//! GRPO on a LoRA adapter: one policy step from one batch of scored completions.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use engine::decoder::{DecoderConfig, Weights};
use engine::{Adapter, LoraConfig};

use super::backward::Graph;
use super::lora::Lora;
use super::loss::{self, TokenInputs, TokenLoss, TokenSums};
use super::lr_schedule::learning_rate;
use super::memory;
use super::model::{Model, Rows};
use super::ops::Entropy;
use super::optim::{AdamW, NamedGrads};
use super::packed::Packed;
use super::parallel::Workers;
use super::stats::{Mismatch, StepStats};
use crate::batch::{Item, pack};
use crate::config::loss::LossConfig;
use crate::config::optim::OptimConfig;
use crate::config::trainer::{Recompute, TrainerConfig};

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
    /// Whether it was cut off at its longest length.
    pub truncated: bool,
}

/// What the trainer needs to know beside the model.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    pub loss: LossConfig,
    pub optim: OptimConfig,
    pub trainer: TrainerConfig,
    /// The temperature that completions are sampled at.
    pub temperature: f64,
    /// Longest completion allowed.
    pub max_new_tokens: usize,
    /// Optimiser updates that a step is to make, and the whole run: the schedule of the rate is laid out over them,
    /// whether or not a step has that many prompts and gradients that are finite.
    pub updates_per_step: u64,
    pub total_updates: u64,
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
    /// A trainer on `device` whose adapter changes nothing yet; `seed` draws its A matrices. Base weights that are elsewhere
    /// stay there and have to be fetched to compute: [`Trainer::fetched`].
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

    /// What `f` makes of the trainer while its base weights are on its device. Afterwards they are where they were, and copies
    /// are gone; weights that were there are not moved.
    pub fn fetched<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let fetched = self.model.weights.to_device(&self.device)?;
        let resting = std::mem::replace(&mut self.model.weights, fetched);
        let result = f(self);
        self.model.weights = resting;
        result
    }

    fn with_lora(model: Model, lora: Lora, settings: TrainerSettings, device: Device) -> Result<Self> {
        let vars = lora.vars();
        let optimiser = AdamW::new(settings.optim.clone(), vars.clone())?;
        let workers = if device.is_cpu() { Workers::per_core()? } else { Workers::new(1)? };
        Ok(Self { model, lora, vars, optimiser, workers, settings, device })
    }

    /// The same, computed as on any device, also where there is a faster way.
    pub fn on_plain_operators(self) -> Self {
        Self { model: self.model.on_plain_operators(), ..self }
    }

    /// Puts the state of a checkpoint in place.
    ///
    /// # Errors
    /// If the adapter or the moments do not fit this model, or the adapter is of another base model, rank, scale or extent:
    /// says what was expected and what was found.
    pub fn restore(self, state: &TrainerState) -> anyhow::Result<Self> {
        check_same(self.lora.config(), &state.adapter.config)?;
        let lora = Lora::from_adapter(&state.adapter, &self.model.config, &self.device)?;
        let mut trainer = Self::with_lora(self.model, lora, self.settings, self.device)?;
        let moments = candle_core::safetensors::load_buffer(&state.optimizer, &trainer.device)?;
        trainer.optimiser.restore(&moments.into_iter().collect(), state.updates)?;
        Ok(trainer)
    }

    /// Whether the blocks of a micro-batch of `rows` rows are computed again in the backward pass.
    pub fn recomputes(&self, rows: usize) -> bool {
        match self.settings.trainer.recompute {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto => {
                !self.device.is_cpu() || memory::recomputes(&self.model.config, rows * self.workers.count())
            }
        }
    }

    /// The policy as it stands.
    pub fn adapter(&self) -> Result<Adapter> {
        self.lora.to_adapter()
    }

    /// Everything that a resume needs.
    pub fn state(&self) -> Result<TrainerState> {
        let (moments, updates) = self.optimiser.state();
        Ok(TrainerState { adapter: self.adapter()?, optimizer: super::tensors_to_bytes(&moments)?, updates })
    }

    /// Trains on one batch; `step` is the version of the policy that is trained. Samples of one prompt follow each other.
    ///
    /// Completions without advantage have no gradient, so without a KL term or an entropy bonus their forward is left
    /// out; they still count in the average. The batch's loss does not depend on how it is cut into micro-batches.
    pub fn step(&mut self, step: u64, samples: &[Sample]) -> Result<StepOutput> {
        let mut mini_batches = self.mini_batches(samples)?;
        if mini_batches.len() > 1 {
            // Later updates must still see the policy from before the first one.
            for mini_batch in &mut mini_batches {
                let old = self.workers.map(mini_batch, |m| Ok(self.log_probs(m, Some(&self.lora))?.0.detach()))?;
                mini_batch.iter_mut().zip(old).for_each(|(micro_batch, old)| micro_batch.old = Some(old));
            }
        }
        let mut stats = StepStats::new(samples, step);
        let mut update = step * self.settings.updates_per_step;
        for epoch in 0..self.settings.trainer.ppo_epochs {
            for mini_batch in &mut mini_batches {
                let (grads, parts) = self.workers.sum(mini_batch, |micro_batch| self.gradients(micro_batch))?;
                if epoch == 0 {
                    for (micro_batch, part) in mini_batch.iter_mut().zip(&parts) {
                        let old = micro_batch.old.get_or_insert_with(|| part.log_probs.clone());
                        stats.mismatch.add(&old.to_vec1()?, &micro_batch.sampled, &micro_batch.policy_steps, step);
                    }
                }
                self.update(update, &grads, &parts, &mut stats)?;
                update += 1;
            }
        }
        stats.finish();
        Ok(StepOutput { adapter: self.adapter()?, stats })
    }

    /// The batch, cut into optimiser updates and those into micro-batches.
    fn mini_batches(&self, samples: &[Sample]) -> Result<Vec<Vec<MicroBatch>>> {
        let TrainerConfig { ppo_mini_batch_size, micro_batch_tokens, .. } = self.settings.trainer;
        let loss = &self.settings.loss;
        let counted: Vec<&Sample> = samples.iter().filter(|s| !(loss.mask_truncated && s.truncated)).collect();
        let prompts: Vec<&[&Sample]> = counted.chunk_by(|a, b| a.prompt == b.prompt).collect();
        let size = if ppo_mini_batch_size == 0 { prompts.len() } else { ppo_mini_batch_size };
        let needs_all = loss.kl_loss_coef > 0.0 || loss.entropy_coef != 0.0;
        let cut = |prompts: &[&[&Sample]]| {
            let lengths: Vec<usize> = prompts.concat().iter().map(|sample| sample.completion.len()).collect();
            let weights = loss::token_weights(loss.loss_agg_mode, &lengths, self.settings.max_new_tokens);
            let mut weights = weights.into_iter();
            let (mut members, mut items) = (Vec::new(), Vec::new());
            for (group, samples) in prompts.iter().enumerate() {
                for (sample, weight) in samples.iter().zip(&mut weights) {
                    if needs_all || sample.advantage != 0.0 {
                        members.push((*sample, weight));
                        items.push(Item { group, shared: sample.prompt.len(), own: sample.completion.len() });
                    }
                }
            }
            let packed = pack(&items, micro_batch_tokens, self.workers.count());
            self.workers.map(&packed, |indices| {
                let mut micro_batch = self.collate(&indices.iter().map(|i| members[*i]).collect::<Vec<_>>())?;
                if loss.kl_loss_coef > 0.0 {
                    micro_batch.reference = Some(self.log_probs(&micro_batch, None)?.0.detach());
                }
                Ok(micro_batch)
            })
        };
        prompts.chunks(size.max(1)).map(cut).collect()
    }

    /// Update `update` of the run (from 0).
    fn update(&mut self, update: u64, grads: &NamedGrads, parts: &[Part], stats: &mut StepStats) -> Result<()> {
        for (part, [loss @ .., entropy, ppo_kl]) in parts.iter().zip(read_sums(parts)?) {
            stats.add(TokenSums::new(loss), entropy, part.tokens, ppo_kl);
        }
        stats.recomputed |= parts.iter().any(|part| part.recomputes);
        let lr = learning_rate(&self.settings.optim, update, self.settings.total_updates);
        let grad_norm = if grads.is_empty() { 0.0 } else { self.optimiser.step(grads, lr)? };
        stats.updated(grad_norm, lr);
        Ok(())
    }

    /// The policy's log-probabilities of completions, without gradient: to compare with an engine's.
    pub fn score(&self, samples: &[Sample]) -> Result<Vec<Vec<f32>>> {
        samples
            .iter()
            .map(|sample| self.log_probs(&self.collate(&[(sample, 0.0)])?, Some(&self.lora))?.0.to_vec1())
            .collect()
    }

    /// How far the engine's log-probabilities of `samples` are from the policy's, and what that does to importance weights.
    pub fn mismatch(&self, samples: &[Sample], step: u64) -> Result<Mismatch> {
        let mut mismatch = Mismatch::default();
        for (sample, log_probs) in samples.iter().zip(self.score(samples)?) {
            mismatch.add(&log_probs, &sample.rollout_log_probs, &vec![sample.policy_step; log_probs.len()], step);
        }
        Ok(mismatch)
    }

    /// Without gradient. One block's activations are in memory at a time.
    fn log_probs(&self, micro_batch: &MicroBatch, lora: Option<&Lora>) -> Result<(Tensor, Tensor)> {
        let mut x = self.model.embed(&micro_batch.rows)?.detach();
        for layer in 0..self.model.config.num_hidden_layers {
            x = self.model.block(layer, &x, &micro_batch.rows, lora)?.detach();
        }
        self.head(&x, micro_batch)
    }

    fn head(&self, hidden: &Tensor, micro_batch: &MicroBatch) -> Result<(Tensor, Tensor)> {
        let MicroBatch { positions, targets, .. } = micro_batch;
        let is_needed = self.settings.loss.entropy_coef != 0.0;
        let entropy = if is_needed { Entropy::WithGradient } else { Entropy::Detached };
        self.model.log_probs(hidden, positions, targets, self.settings.temperature, entropy)
    }

    fn gradients(&self, micro_batch: &MicroBatch) -> Result<(NamedGrads, Part)> {
        let Self { model, lora, vars, .. } = self;
        let recomputes = self.recomputes(micro_batch.rows.count());
        let graph = Graph { model, lora: Some(lora), vars, recomputes };
        let (grads, part) = graph.gradients(&micro_batch.rows, |hidden| self.loss(hidden, micro_batch))?;
        Ok((grads, Part { recomputes, ..part }))
    }

    /// The loss of a micro-batch with its gradient, and what else is worth knowing.
    fn loss(&self, hidden: &Tensor, micro_batch: &MicroBatch) -> Result<(Tensor, Part)> {
        let (log_probs, entropies) = self.head(hidden, micro_batch)?;
        let detached = log_probs.detach();
        let old = micro_batch.old.clone().unwrap_or_else(|| detached.clone());
        let inputs = TokenInputs {
            log_probs: &log_probs,
            entropies: &entropies,
            old_log_probs: &old,
            rollout_log_probs: &micro_batch.rollout,
            ref_log_probs: micro_batch.reference.as_ref(),
            advantages: &micro_batch.advantages,
            weights: &micro_batch.weights,
            lengths: &micro_batch.lengths,
        };
        let TokenLoss { total, sums } = loss::policy_loss(&self.settings.loss, &inputs)?;
        let others = [entropies.detach().sum_all()?, (old - &detached)?.sum_all()?];
        let part = Part {
            sums: Tensor::cat(&[sums, Tensor::stack(&others, 0)?], 0)?,
            tokens: micro_batch.policy_steps.len(),
            log_probs: detached,
            recomputes: false,
        };
        Ok((total, part))
    }

    /// Lays out samples and their token weights as tensors; a prompt that follows itself stands once.
    fn collate(&self, members: &[(&Sample, f32)]) -> Result<MicroBatch> {
        let (mut packed, mut flat) = (Packed::default(), FlatTokens::default());
        for group in members.chunk_by(|(a, _), (b, _)| a.prompt == b.prompt) {
            let Some((first, _)) = group.first() else { continue };
            if first.prompt.is_empty() {
                candle_core::bail!("an empty prompt predicts nothing: its completion cannot be trained on");
            }
            let prompt = packed.push(&first.prompt);
            for (sample, weight) in group {
                // The last token predicts nothing.
                let own = packed.push_after(&prompt, &sample.completion[..sample.completion.len().saturating_sub(1)]);
                flat.extend(std::iter::once(prompt.end - 1).chain(own), sample, *weight);
            }
        }
        let vector = |values: Vec<f32>| Tensor::new(values, &self.device);
        Ok(MicroBatch {
            rows: self.model.rows(&packed)?,
            positions: Tensor::new(flat.positions, &self.device)?,
            targets: Tensor::new(flat.targets, &self.device)?,
            rollout: vector(flat.rollout.clone())?,
            sampled: flat.rollout,
            advantages: vector(flat.advantages)?,
            weights: vector(flat.weights)?,
            lengths: flat.lengths,
            policy_steps: flat.policy_steps,
            old: None,
            reference: None,
        })
    }
}

/// Refuses an adapter that was made for something else than the settings say.
fn check_same(expected: &LoraConfig, found: &LoraConfig) -> anyhow::Result<()> {
    let described = |config: &LoraConfig| {
        [
            ("base model", config.base_model_name_or_path.clone()),
            ("rank", config.r.to_string()),
            ("alpha", config.lora_alpha.to_string()),
            ("target modules", config.target_modules.join(", ")),
        ]
    };
    for ((what, expected), (_, found)) in described(expected).into_iter().zip(described(found)) {
        anyhow::ensure!(expected == found, "the adapter's {what}: expected {expected}, found {found}");
    }
    Ok(())
}

/// Tensors of one micro-batch: everything but `rows` has one entry a completion token.
struct MicroBatch {
    rows: Rows,
    /// The rows that predict `targets`.
    positions: Tensor,
    targets: Tensor,
    rollout: Tensor,
    /// The same, for the host.
    sampled: Vec<f32>,
    advantages: Tensor,
    weights: Tensor,
    /// Tokens of each completion.
    lengths: Vec<usize>,
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
    lengths: Vec<usize>,
    policy_steps: Vec<u64>,
}

impl FlatTokens {
    /// `rows` predict the sample's tokens.
    fn extend(&mut self, rows: impl Iterator<Item = usize>, sample: &Sample, weight: f32) {
        let n = sample.completion.len();
        assert_eq!(n, sample.rollout_log_probs.len(), "one log-probability a token: this is a bug in the engine");
        self.positions.extend(rows.take(n).map(|row| row as u32));
        self.targets.extend(&sample.completion);
        self.rollout.extend(&sample.rollout_log_probs);
        self.advantages.resize(self.advantages.len() + n, sample.advantage);
        self.weights.resize(self.weights.len() + n, weight);
        self.lengths.push(n);
        self.policy_steps.resize(self.policy_steps.len() + n, sample.policy_step);
    }
}

/// What is known of one micro-batch, beside its gradients.
struct Part {
    /// Of the loss (4), of the entropies, and of how far the policy moved since the start of the batch, on the device.
    sums: Tensor,
    log_probs: Tensor,
    tokens: usize,
    /// Whether its blocks were computed again.
    recomputes: bool,
}

/// The sums of every part. The one time in an update that the micro-batches' numbers are waited for.
fn read_sums(parts: &[Part]) -> Result<Vec<[f32; 6]>> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let sums: Vec<&Tensor> = parts.iter().map(|part| &part.sums).collect();
    let rows = Tensor::stack(&sums, 0)?.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| std::array::from_fn(|i| row[i])).collect())
}
