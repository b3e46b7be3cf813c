//! Supervised training of all weights: cross-entropy with a weight for each token.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use engine::decoder::{DecoderConfig, Weights};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::model::Model;
use super::optim::{AdamW, NamedGrads, OptimConfig};
use super::parallel::{self, Workers};

/// A token sequence and how much each token counts.
#[derive(Debug, Clone)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// `weights[i]` is for predicting `tokens[i]`; the first is never predicted. As long as `tokens`.
    pub weights: Vec<f32>,
}

/// What one update did.
#[derive(Debug, Clone, Copy)]
pub struct SftStats {
    /// Mean negative log-probability (nats) of tokens of weight 1: the completions.
    pub completion_loss: f64,
    /// The weighted mean that was minimised.
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: usize,
}

/// Owns a model whose every weight is trained.
pub struct SftTrainer {
    model: Model,
    vars: BTreeMap<String, Var>,
    optimiser: AdamW,
    workers: Workers,
}

impl SftTrainer {
    /// A model with random weights: normal with deviation 0.02, scaled by 1/√(2·layers) where a block writes to the
    /// residual stream (GPT-2); norms at 1.
    pub fn init(config: DecoderConfig, optim: OptimConfig, seed: u64) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(engine::sampler::mix_seed(seed, 0x1417));
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
        Self::new(config, weights, vars, optim)
    }

    /// A model that is there already; its optimiser begins anew.
    pub fn load(dir: &Path, optim: OptimConfig) -> anyhow::Result<Self> {
        let config = DecoderConfig::load(dir)?;
        let loaded = Weights::load(dir, &config, DType::F32, &Device::Cpu)?.named(&config);
        let mut vars = BTreeMap::new();
        let weights = Weights::from_named(&config, |name, _| {
            let var = Var::from_tensor(&loaded[name])?;
            vars.insert(name.to_string(), var.clone());
            Ok(var.as_tensor().clone())
        })?;
        Self::new(config, weights, vars, optim)
    }

    fn new(
        config: DecoderConfig,
        weights: Weights,
        vars: BTreeMap<String, Var>,
        optim: OptimConfig,
    ) -> anyhow::Result<Self> {
        let optimiser = AdamW::new(optim, vars.clone())?;
        Ok(Self { model: Model::new(config, weights)?, vars, optimiser, workers: Workers::per_core()? })
    }

    /// The model's sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    /// One update on a batch; `lr_scale` is the schedule's factor.
    pub fn step(&mut self, batch: &[Example], micro_batch_tokens: usize, lr_scale: f64) -> Result<SftStats> {
        let total: f32 = batch.iter().flat_map(|e| &e.weights[1..]).sum();
        let lengths: Vec<usize> = batch.iter().map(|e| e.tokens.len()).collect();
        let micro_batches = crate::batch::pack(&lengths, micro_batch_tokens);
        let parts = self.workers.map(&micro_batches, |indices| {
            let examples: Vec<&Example> = indices.iter().map(|&i| &batch[i]).collect();
            self.gradients(&examples, total)
        })?;
        let completion_tokens = batch.iter().flat_map(|e| &e.weights[1..]).filter(|w| **w == 1.0).count();
        let loss = parts.iter().map(|part| part.loss).sum();
        let completion_loss = parts.iter().map(|part| part.completion_loss).sum::<f64>() / completion_tokens as f64;
        let grads = parallel::sum(parts.into_iter().map(|part| part.grads))?;
        let lr = self.optimiser.lr(lr_scale);
        let grad_norm = self.optimiser.step(&grads, lr)?;
        Ok(SftStats { completion_loss, loss, grad_norm, tokens: lengths.iter().sum() })
    }

    fn gradients(&self, examples: &[&Example], total: f32) -> Result<Part> {
        let sequences: Vec<&[u32]> = examples.iter().map(|e| e.tokens.as_slice()).collect();
        let (tokens, width) = super::pad(&sequences, &Device::Cpu)?;
        let (mut positions, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, example) in examples.iter().enumerate() {
            for i in (1..example.tokens.len()).filter(|&i| example.weights[i] > 0.0) {
                positions.push((row * width + i - 1) as u32);
                targets.push(example.tokens[i]);
                weights.push(example.weights[i]);
            }
        }
        let is_completion: Vec<f32> = weights.iter().map(|w| f32::from(u8::from(*w == 1.0))).collect();
        let vector = |values: Vec<f32>| Tensor::new(values, &Device::Cpu);
        let (positions, targets) = (Tensor::new(positions, &Device::Cpu)?, Tensor::new(targets, &Device::Cpu)?);
        let hidden = self.model.hidden(&tokens, None)?;
        let (log_probs, _) = self.model.log_probs(&hidden, &positions, &targets, 1.0)?;
        let loss = ((&log_probs * vector(weights)?)?.sum_all()? * f64::from(-1.0 / total))?;
        let completion_loss = (log_probs.detach() * vector(is_completion)?)?.sum_all()?.neg()?.to_scalar::<f32>()?;
        Ok(Part {
            loss: f64::from(loss.to_scalar::<f32>()?),
            completion_loss: f64::from(completion_loss),
            grads: parallel::gradients(&loss, &self.vars)?,
        })
    }

    /// Writes `config.json` and `model.safetensors` (bf16) into `dir`.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let config = &self.model.config;
        std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(config)? + "\n")?;
        let named = self.model.weights.named(config).into_iter();
        let tensors = named.map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::BF16)?))).collect::<Result<_>>()?;
        crate::files::write_atomic(&dir.join("model.safetensors"), &super::tensors_to_bytes(&tensors)?)?;
        Ok(())
    }
}

struct Part {
    loss: f64,
    completion_loss: f64,
    grads: NamedGrads,
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
