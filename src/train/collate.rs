//! Samples as the tensors of one micro-batch.

use candle_core::{Device, Result, Tensor};

use super::model::{Model, Rows};
use super::packed::Packed;
use super::sample::Sample;

/// Tensors of one micro-batch. All except `rows` and `lengths` have one entry per completion token.
pub struct MicroBatch {
    pub rows: Rows,
    /// The distribution of the first sample. All samples are of it where gradients are sketched.
    pub source: usize,
    /// The rows that predict `targets`.
    pub positions: Tensor,
    pub targets: Tensor,
    /// The engine's log-probabilities, on the device.
    pub rollout: Tensor,
    /// The same numbers on the host.
    pub rollout_values: Vec<f32>,
    pub advantages: Tensor,
    pub weights: Tensor,
    /// Tokens of each completion.
    pub lengths: Vec<usize>,
    /// The policy step that sampled each token.
    pub policy_steps: Vec<u64>,
    /// Log-probabilities at the start of the batch. `None` until they are computed.
    pub old: Option<Tensor>,
    /// Log-probabilities under the base model, if the KL term is on.
    pub reference: Option<Tensor>,
}

impl MicroBatch {
    /// Lays out samples and their token weights on `device`. Adjacent samples with one prompt share its rows.
    ///
    /// # Errors
    /// If a prompt is empty.
    pub fn collate(model: &Model, device: &Device, members: &[(&Sample, f32)]) -> Result<Self> {
        let (mut packed, mut tokens) = (Packed::default(), CompletionTokens::default());
        for group in members.chunk_by(|(a, _), (b, _)| a.prompt == b.prompt) {
            let Some((first, _)) = group.first() else { continue };
            if first.prompt.is_empty() {
                candle_core::bail!(
                    "cannot train on a completion whose prompt is empty: no row predicts its first token"
                );
            }
            let prompt = packed.push(&first.prompt);
            for (sample, weight) in group {
                // The last token predicts nothing, so it has no row.
                let own = packed.push_after(&prompt, &sample.completion[..sample.completion.len().saturating_sub(1)]);
                tokens.extend(std::iter::once(prompt.end - 1).chain(own), sample, *weight);
            }
        }
        let vector = |values: Vec<f32>| Tensor::new(values, device);
        Ok(Self {
            rows: model.rows(&packed)?,
            source: members.first().map_or(0, |(sample, _)| sample.source),
            positions: Tensor::new(tokens.positions, device)?,
            targets: Tensor::new(tokens.targets, device)?,
            rollout: vector(tokens.rollout.clone())?,
            rollout_values: tokens.rollout,
            advantages: vector(tokens.advantages)?,
            weights: vector(tokens.weights)?,
            lengths: tokens.lengths,
            policy_steps: tokens.policy_steps,
            old: None,
            reference: None,
        })
    }
}

/// The completion tokens of a micro-batch, one after the other.
#[derive(Default)]
struct CompletionTokens {
    positions: Vec<u32>,
    targets: Vec<u32>,
    rollout: Vec<f32>,
    advantages: Vec<f32>,
    weights: Vec<f32>,
    lengths: Vec<usize>,
    policy_steps: Vec<u64>,
}

impl CompletionTokens {
    /// Appends the tokens of a sample. `rows` are the rows that predict them.
    fn extend(&mut self, rows: impl Iterator<Item = usize>, sample: &Sample, weight: f32) {
        let n = sample.completion.len();
        assert_eq!(n, sample.rollout_log_probs.len(), "one log-probability per token: this is a bug in the engine");
        self.positions.extend(rows.take(n).map(|row| row as u32));
        self.targets.extend(&sample.completion);
        self.rollout.extend(&sample.rollout_log_probs);
        self.advantages.resize(self.advantages.len() + n, sample.advantage);
        self.weights.resize(self.weights.len() + n, weight);
        self.lengths.push(n);
        self.policy_steps.resize(self.policy_steps.len() + n, sample.policy_step);
    }
}
