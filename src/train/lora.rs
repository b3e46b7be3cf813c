//! The trainable LoRA adapter: A and B of every target module, as variables of the autograd graph.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use engine::EngineError;
use engine::adapter::{Adapter, LoraConfig};
use engine::decoder::{DecoderConfig, module_path};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::model::linear;

/// PEFT's prefix of every tensor name.
const PREFIX: &str = "base_model.model";

/// The low-rank updates by module path (`model.layers.0.self_attn.q_proj`).
pub struct Lora {
    config: Arc<LoraConfig>,
    deltas: BTreeMap<String, Delta>,
}

/// One module's update: (alpha / r)·B·A.
pub struct Delta {
    /// r × in.
    a: Var,
    /// out × r.
    b: Var,
    scale: f64,
}

impl Delta {
    /// (… × in) → (… × out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(&linear(x, self.a.as_tensor())?, self.b.as_tensor())? * self.scale
    }
}

impl Lora {
    /// A ~ U(−1/√in, 1/√in), as PEFT's kaiming_uniform(a = √5) gives; B = 0, so the policy starts as the base model.
    ///
    /// # Errors
    /// If a target module is not a linear layer of the block.
    pub fn init(config: Arc<LoraConfig>, decoder: &DecoderConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(engine::sampler::mix_seed(seed, 0x10AA));
        let mut deltas = BTreeMap::new();
        for layer in 0..decoder.num_hidden_layers {
            for module in &config.target_modules {
                let (input, output) = decoder
                    .linear_shape(module)
                    .ok_or_else(|| candle_core::Error::Msg(format!("{module} is no linear layer of the model")))?;
                let bound = 1.0 / (input as f32).sqrt();
                let a: Vec<f32> = (0..config.r * input).map(|_| rng.random_range(-bound..bound)).collect();
                let a = Tensor::from_vec(a, (config.r, input), device)?;
                let b = Tensor::zeros((output, config.r), candle_core::DType::F32, device)?;
                deltas.insert(format!("model.layers.{layer}.{}", module_path(module)), Delta::new(&a, &b, &config)?);
            }
        }
        Ok(Self { config, deltas })
    }

    /// Reads an adapter back, bit for bit.
    ///
    /// # Errors
    /// If a tensor that the configuration promises is missing, one is left over, or a shape does not fit the model.
    pub fn from_adapter(
        adapter: &Adapter,
        decoder: &DecoderConfig,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let lora = Self::init(adapter.config.clone(), decoder, 0, device)?;
        let (tensors, vars) = (adapter.tensors()?, lora.vars());
        if let Some(surplus) = tensors.keys().find(|name| !vars.contains_key(*name)) {
            return Err(EngineError::Adapter(format!("tensor {surplus} belongs to no target module")));
        }
        for (name, var) in vars {
            let tensor = tensors.get(&name).ok_or_else(|| EngineError::Adapter(format!("tensor {name} is missing")))?;
            if tensor.dims() != var.dims() {
                let (expected, found) = (var.dims(), tensor.dims());
                return Err(EngineError::Adapter(format!("{name}: expected shape {expected:?}, found {found:?}")));
            }
            var.set(&tensor.to_device(device)?)?;
        }
        Ok(lora)
    }

    /// Rank, scale and extent.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The adapter as PEFT writes it.
    pub fn to_adapter(&self) -> Result<Adapter> {
        let tensors: BTreeMap<String, Tensor> =
            self.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
        Ok(Adapter::new(self.config.clone(), super::tensors_to_bytes(&tensors)?))
    }

    /// Every trainable variable by its PEFT name, in the order of the names.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        let named = |(path, delta): (&String, &Delta)| {
            [
                (format!("{PREFIX}.{path}.lora_A.weight"), delta.a.clone()),
                (format!("{PREFIX}.{path}.lora_B.weight"), delta.b.clone()),
            ]
        };
        self.deltas.iter().flat_map(named).collect()
    }

    /// The update of a module, if the adapter covers it.
    pub fn delta(&self, path: &str) -> Option<&Delta> {
        self.deltas.get(path)
    }
}

impl Delta {
    fn new(a: &Tensor, b: &Tensor, config: &LoraConfig) -> Result<Self> {
        Ok(Self { a: Var::from_tensor(a)?, b: Var::from_tensor(b)?, scale: config.scale() })
    }
}
