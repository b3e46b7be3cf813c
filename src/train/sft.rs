//! Supervised training of all weights or of a LoRA adapter: cross-entropy with a weight for each token.

mod save;
mod start;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use engine::decoder::DecoderConfig;
use tokio::sync::watch;

use self::save::Origin;
use super::backward::Graph;
use super::give_up::GiveUp;
use super::lora::Lora;
use super::lr_schedule::learning_rate;
use super::memory;
use super::micro_batch::{PackItem, pack};
use super::model::Model;
use super::ops::Entropy;
use super::optim::{AdamW, NamedGrads};
use super::packed::Packed;
use super::parallel::Workers;
use crate::config::optim::OptimConfig;

/// A token sequence and the weight of each token.
#[derive(Debug, Clone)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// `weights[i]` is the weight of predicting `tokens[i]`. The first token is never predicted. As long as `tokens`.
    pub weights: Vec<f32>,
    /// The completion is `tokens[learned..]`.
    pub learned: usize,
}

/// The numbers of one update.
#[derive(Debug, Clone, Copy)]
pub struct SftStats {
    /// Mean negative log-probability (nats) of the completion tokens.
    pub completion_loss: f64,
    /// The weighted mean that is minimised.
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: usize,
}

/// Owns a model, its trained variables and their optimiser.
pub struct SftTrainer {
    model: Model,
    /// `None` if every weight is trained.
    lora: Option<Lora>,
    vars: BTreeMap<String, Var>,
    optimiser: AdamW,
    workers: Workers,
    /// `None` if training started from random weights, or if an adapter is trained.
    origin: Option<Origin>,
}

impl SftTrainer {
    fn new(model: Model, lora: Option<Lora>, vars: BTreeMap<String, Var>, optim: OptimConfig) -> anyhow::Result<Self> {
        let optimiser = AdamW::new(optim, vars.clone())?;
        Ok(Self { model, lora, vars, optimiser, workers: Workers::per_core()?, origin: None })
    }

    /// Once `asked` turns true, a step that runs ends with an error and changes nothing.
    pub fn give_up_when(&mut self, asked: watch::Receiver<bool>) {
        self.model.give_up = GiveUp::when(asked);
    }

    /// The number of trained parameters.
    pub fn trained(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    /// Makes update `update` (from 0) of `total` on a batch. A gradient that is not finite changes nothing; the returned norm
    /// shows it.
    pub fn step(&mut self, batch: &[Example], micro_batch_tokens: usize, update: u64, total: u64) -> Result<SftStats> {
        let weight: f32 = batch.iter().flat_map(|e| &e.weights[1..]).sum();
        let items =
            batch.iter().enumerate().map(|(group, e)| PackItem { group, shared_tokens: 0, own_tokens: e.tokens.len() });
        let items: Vec<PackItem> = items.collect();
        let micro_batches = pack(&items, micro_batch_tokens, self.workers.count());
        let (grads, losses) = self.workers.sum(&micro_batches, |indices| {
            let examples: Vec<&Example> = indices.iter().map(|&i| &batch[i]).collect();
            // A sequence is never cut, so a micro-batch may exceed its budget.
            let rows: usize = examples.iter().map(|example| example.tokens.len()).sum();
            let recomputes = memory::recomputes(&self.model.config, rows * self.workers.count());
            self.gradients(&examples, weight, recomputes)
        })?;
        let completion_tokens: usize = batch.iter().map(|e| e.tokens.len() - e.learned.max(1)).sum();
        let loss = losses.iter().map(|losses| losses.loss).sum();
        let completion_loss =
            losses.iter().map(|losses| losses.completion_loss).sum::<f64>() / completion_tokens as f64;
        let lr = learning_rate(&self.optimiser.config, update, total);
        let grad_norm = self.optimiser.step(&grads, lr)?;
        Ok(SftStats { completion_loss, loss, grad_norm, tokens: items.iter().map(|item| item.own_tokens).sum() })
    }

    /// The gradients of a micro-batch's share of the loss. `total` is the weight of the whole batch.
    fn gradients(&self, examples: &[&Example], total: f32, recomputes: bool) -> Result<(NamedGrads, SftLosses)> {
        let mut packed = Packed::default();
        let (mut positions, mut targets, mut weights, mut is_completion) = (vec![], vec![], vec![], vec![]);
        for example in examples {
            let rows = packed.push(&example.tokens);
            for i in (1..example.tokens.len()).filter(|&i| example.weights[i] > 0.0) {
                positions.push((rows.start + i - 1) as u32);
                targets.push(example.tokens[i]);
                weights.push(example.weights[i]);
                is_completion.push(if i >= example.learned { 1.0f32 } else { 0.0 });
            }
        }
        let vector = |values: Vec<f32>| Tensor::new(values, &Device::Cpu);
        let (positions, targets) = (Tensor::new(positions, &Device::Cpu)?, Tensor::new(targets, &Device::Cpu)?);
        let (weights, is_completion) = (vector(weights)?, vector(is_completion)?);
        let loss = |hidden: &Tensor| {
            let (log_probs, _) = self.model.log_probs(hidden, &positions, &targets, 1.0, Entropy::Detached)?;
            let loss = ((&log_probs * &weights)?.sum_all()? * f64::from(-1.0 / total))?;
            let completion_loss = (log_probs.detach() * &is_completion)?.sum_all()?.neg()?.to_scalar::<f32>()?;
            let value = loss.to_scalar::<f32>()?;
            Ok((loss, SftLosses { loss: f64::from(value), completion_loss: f64::from(completion_loss) }))
        };
        let graph = Graph { model: &self.model, lora: self.lora.as_ref(), vars: &self.vars, recomputes };
        graph.gradients(&self.model.rows(&packed)?, loss)
    }
}

/// Sums over the tokens of one micro-batch.
struct SftLosses {
    /// Its share of the weighted mean.
    loss: f64,
    /// Negative log-probability of the completion tokens.
    completion_loss: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The embeddings are tied, so that the first and the last layer add to one gradient.
    #[test]
    fn recomputing_gives_the_gradients_of_all_weights() {
        let config = DecoderConfig::parse(
            r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 30, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 1, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
        );
        let trainer = SftTrainer::init(config.unwrap(), OptimConfig::default(), 1).unwrap();
        let example = |n: u32| Example {
            tokens: (0..n).map(|i| i * 7 % 30).collect(),
            weights: vec![1.0; n as usize],
            learned: 1,
        };
        let examples = [example(9), example(21)];
        let gradients = |recomputes| trainer.gradients(&examples.each_ref(), 28.0, recomputes).unwrap().0;
        let (kept, again) = (gradients(false), gradients(true));
        assert_eq!(kept.len(), trainer.vars.len());
        assert!(kept.keys().eq(again.keys()));
        for (name, want) in &kept {
            let [got, want] = [&again[name], want].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            let largest = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{name}");
        }
    }
}
