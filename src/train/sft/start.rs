//! The models that supervised training starts from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use engine::LoraConfig;
use engine::decoder::{DecoderConfig, Weights};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::SftTrainer;
use super::save::Origin;
use crate::config::optim::OptimConfig;
use crate::train::lora::Lora;
use crate::train::model::Model;

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
        let origin = Origin::read(dir)?;
        let trainer = Self::new(Model::new(config, weights), None, vars, optim)?;
        Ok(Self { origin: Some(origin), ..trainer })
    }
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
