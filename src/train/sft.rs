//! Supervised training of all weights or of a LoRA adapter: cross-entropy with a weight for each token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use engine::LoraConfig;
use engine::decoder::{DecoderConfig, Weights, number_formats};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::backward::Graph;
use super::lora::{Lora, save_adapter};
use super::lr_schedule::learning_rate;
use super::memory;
use super::micro_batch::{PackItem, pack};
use super::model::Model;
use super::ops::Entropy;
use super::optim::{AdamW, NamedGrads};
use super::packed::Packed;
use super::parallel::Workers;
use crate::config::optim::OptimConfig;
use crate::model::folder::write_tensors;

const CONFIG: &str = "config.json";

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
    origin: Option<Origin>,
}

/// The model that training started from. The saved model keeps its configuration, byte for byte, and its number formats.
struct Origin {
    config: Vec<u8>,
    formats: BTreeMap<String, DType>,
}

impl SftTrainer {
    /// A model with random weights: normal with standard deviation 0.02, scaled by 1/√(2·layers) where a block writes to the
    /// residual stream (GPT-2). Norm weights are 1.
    pub fn init(config: DecoderConfig, optim: OptimConfig, seed: u64) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(crate::seed::mix_seed(seed, 0x1417));
        let mut vars = BTreeMap::new();
        let residual = 1.0 / (2.0 * config.num_hidden_layers as f32).sqrt();
        let weights = Weights::from_named(&config, |name, shape| {
            let deviation = if name.contains("o_proj") || name.contains("down_proj") { 0.02 * residual } else { 0.02 };
            let count = shape.iter().product();
            let values: Vec<f32> = match shape.len() {
                1 => vec![1.0; count],
                _ => (0..count).map(|_| deviation * normal(&mut rng)).collect(),
            };
            let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
            vars.insert(name.to_string(), var.clone());
            Ok(var.as_tensor().clone())
        })?;
        Self::new(Model::new(config, weights), None, vars, optim)
    }

    /// A new adapter on the model in `dir`, whose weights stay frozen.
    ///
    /// # Errors
    /// If the model cannot be loaded, or has no layer with the name of a target module.
    pub fn with_lora(dir: &Path, lora: Arc<LoraConfig>, optim: OptimConfig, seed: u64) -> anyhow::Result<Self> {
        let config = DecoderConfig::load(dir)?;
        let weights = Weights::load(dir, &config, DType::F32, &Device::Cpu)?;
        let lora = Lora::init(lora, &config, seed, &Device::Cpu)?;
        let vars = lora.vars();
        Self::new(Model::new(config, weights), Some(lora), vars, optim)
    }

    /// The model in `dir`, with a new optimiser.
    pub fn load(dir: &Path, optim: OptimConfig) -> anyhow::Result<Self> {
        let config = DecoderConfig::load(dir)?;
        let loaded = Weights::load(dir, &config, DType::F32, &Device::Cpu)?.named(&config);
        let mut vars = BTreeMap::new();
        let weights = Weights::from_named(&config, |name, _| {
            let var = Var::from_tensor(&loaded[name])?;
            vars.insert(name.to_string(), var.clone());
            Ok(var.as_tensor().clone())
        })?;
        let origin = Origin { config: std::fs::read(dir.join(CONFIG))?, formats: number_formats(dir)? };
        let trainer = Self::new(Model::new(config, weights), None, vars, optim)?;
        Ok(Self { origin: Some(origin), ..trainer })
    }

    fn new(model: Model, lora: Option<Lora>, vars: BTreeMap<String, Var>, optim: OptimConfig) -> anyhow::Result<Self> {
        let optimiser = AdamW::new(optim, vars.clone())?;
        Ok(Self { model, lora, vars, optimiser, workers: Workers::per_core()?, origin: None })
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

    /// Writes `config.json` and `model.safetensors` into `dir`, in the number formats of the model that training started
    /// from, or in bf16 if it started from random weights. If an adapter is trained, writes the two files of PEFT instead.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        if let Some(lora) = &self.lora {
            return Ok(save_adapter(&lora.to_adapter()?, dir)?);
        }
        let model = &self.model.config;
        let config = match &self.origin {
            Some(origin) => origin.config.clone(),
            None => (serde_json::to_string_pretty(model)? + "\n").into_bytes(),
        };
        crate::files::write_atomic(&dir.join(CONFIG), &config)?;
        let format = |name: &str| self.origin.as_ref().and_then(|origin| origin.formats.get(name)).copied();
        let stored = |(name, tensor): (String, Tensor)| {
            let dtype = format(&name).unwrap_or(DType::BF16);
            Ok((name, tensor.to_dtype(dtype)?))
        };
        let tensors = self.model.weights.named(model).into_iter().map(stored).collect::<Result<_>>()?;
        write_tensors(&dir.join("model.safetensors"), &tensors)
    }
}

/// Sums over the tokens of one micro-batch.
struct SftLosses {
    /// Its share of the weighted mean.
    loss: f64,
    /// Negative log-probability of the completion tokens.
    completion_loss: f64,
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
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
