//! Forward and backward passes over one micro-batch.

use candle_core::{Result, Tensor};

use super::Trainer;
use crate::config::trainer::Recompute;
use crate::train::backward::Graph;
use crate::train::collate::MicroBatch;
use crate::train::lora::Lora;
use crate::train::loss::{self, TokenInputs, TokenLoss};
use crate::train::memory;
use crate::train::ops::Entropy;
use crate::train::optim::NamedGrads;
use crate::train::sketch::sketch;

/// What the passes over one micro-batch give besides gradients.
pub struct MicroBatchOutput {
    /// Six sums on the device: the four of [`TokenLoss::sums`], of the entropies, and of ln π_old − ln π.
    sums: Tensor,
    pub log_probs: Tensor,
    pub tokens: usize,
    /// Of the gradient, if the settings ask for it.
    pub sketch: Option<Vec<f32>>,
    /// Whether the backward pass computed blocks again.
    pub recomputed: bool,
}

/// The sums of every micro-batch. Waits for the device: the only time in an update that these numbers are read.
pub fn read_sums(outputs: &[MicroBatchOutput]) -> Result<Vec<[f32; 6]>> {
    if outputs.is_empty() {
        return Ok(Vec::new());
    }
    let sums: Vec<&Tensor> = outputs.iter().map(|output| &output.sums).collect();
    let rows = Tensor::stack(&sums, 0)?.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| std::array::from_fn(|i| row[i])).collect())
}

impl Trainer {
    /// Whether the backward pass of a micro-batch of `rows` rows computes blocks again.
    pub fn recomputes(&self, rows: usize) -> bool {
        match self.settings.trainer.recompute {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto => {
                !self.device.is_cpu() || memory::recomputes(&self.model.config, rows * self.workers.count())
            }
        }
    }

    /// Log-probabilities without gradient; without `lora` those of the base model. Only one block's activations are in
    /// memory at a time.
    pub(super) fn log_probs(&self, micro_batch: &MicroBatch, lora: Option<&Lora>) -> Result<Tensor> {
        let mut x = self.model.embed(&micro_batch.rows)?.detach();
        for layer in 0..self.model.config.num_hidden_layers {
            x = self.model.block(layer, &x, &micro_batch.rows, lora)?.detach();
        }
        let (log_probs, _) = self.head(&x, micro_batch)?;
        Ok(log_probs.detach())
    }

    /// The gradients of a micro-batch's loss.
    pub(super) fn gradients(&self, micro_batch: &MicroBatch) -> Result<(NamedGrads, MicroBatchOutput)> {
        let Self { model, lora, vars, .. } = self;
        let recomputes = self.recomputes(micro_batch.rows.count());
        let graph = Graph { model, lora: Some(lora), vars, recomputes };
        let (grads, output) = graph.gradients(&micro_batch.rows, |hidden| self.loss(hidden, micro_batch))?;
        let sketch = if self.settings.sketches_gradients { Some(sketch(&grads)?) } else { None };
        Ok((grads, MicroBatchOutput { sketch, recomputed: recomputes, ..output }))
    }

    /// The loss of a micro-batch, with gradient.
    fn loss(&self, hidden: &Tensor, micro_batch: &MicroBatch) -> Result<(Tensor, MicroBatchOutput)> {
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
        let output = MicroBatchOutput {
            sums: Tensor::cat(&[sums, Tensor::stack(&others, 0)?], 0)?,
            tokens: micro_batch.policy_steps.len(),
            sketch: None,
            log_probs: detached,
            recomputed: false,
        };
        Ok((total, output))
    }

    /// Log-probabilities and entropies of the completion tokens.
    fn head(&self, hidden: &Tensor, micro_batch: &MicroBatch) -> Result<(Tensor, Tensor)> {
        let MicroBatch { positions, targets, .. } = micro_batch;
        let needs_gradient = self.settings.loss.entropy_coef != 0.0;
        let entropy = if needs_gradient { Entropy::WithGradient } else { Entropy::Detached };
        self.model.log_probs(hidden, positions, targets, self.settings.temperature, entropy)
    }
}
