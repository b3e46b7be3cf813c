//! The trainable LoRA adapter: A and B of every target module, as variables of the autograd graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use engine::EngineError;
use engine::adapter::{Adapter, LoraConfig};
use engine::decoder::{DecoderConfig, Module};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::ops::LoraDelta;
use crate::files::write_atomic;

/// The files of an adapter, as PEFT names them.
pub const ADAPTER: &str = "adapter_model.safetensors";
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Writes an adapter's two files into `dir`.
///
/// # Errors
/// What writing fails with.
pub fn save_adapter(adapter: &Adapter, dir: &Path) -> std::io::Result<()> {
    write_atomic(&dir.join(ADAPTER), &adapter.bytes)?;
    write_atomic(&dir.join(ADAPTER_CONFIG), &serde_json::to_vec_pretty(&*adapter.config)?)
}

/// PEFT's prefix of every tensor name.
const PREFIX: &str = "base_model.model";

/// The low-rank updates by layer and module.
pub struct Lora {
    config: Arc<LoraConfig>,
    deltas: BTreeMap<(usize, Module), Pair>,
}

/// One module's matrices.
struct Pair {
    /// r × in.
    a: Var,
    /// out × r.
    b: Var,
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
            for name in &config.target_modules {
                let module = Module::from_name(name)
                    .ok_or_else(|| candle_core::Error::Msg(format!("{name} is no linear layer of the model")))?;
                let (input, output) = decoder.linear_shape(module);
                let bound = 1.0 / (input as f32).sqrt();
                let a: Vec<f32> = (0..config.r * input).map(|_| rng.random_range(-bound..bound)).collect();
                let a = Tensor::from_vec(a, (config.r, input), device)?;
                let b = Tensor::zeros((output, config.r), candle_core::DType::F32, device)?;
                deltas.insert((layer, module), Pair { a: Var::from_tensor(&a)?, b: Var::from_tensor(&b)? });
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
        let named = |((layer, module), pair): (&(usize, Module), &Pair)| {
            let path = format!("{PREFIX}.model.layers.{layer}.{}", module.path());
            [(format!("{path}.lora_A.weight"), pair.a.clone()), (format!("{path}.lora_B.weight"), pair.b.clone())]
        };
        self.deltas.iter().flat_map(named).collect()
    }

    /// The update of a module, if the adapter covers it.
    pub fn delta(&self, layer: usize, module: Module) -> Option<LoraDelta<'_>> {
        let Pair { a, b } = self.deltas.get(&(layer, module))?;
        Some(LoraDelta { a: a.as_tensor(), b: b.as_tensor(), scale: self.config.scale() })
    }
}
