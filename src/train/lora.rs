//! The trainable LoRA adapter: A and B of every target module, as variables of the autograd graph.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use engine::EngineError;
pub use engine::adapter::{ADAPTER, ADAPTER_CONFIG};
use engine::adapter::{Adapter, LoraConfig, LowRankPair, tensor_names};
use engine::decoder::{DecoderConfig, Module};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::ops::LoraDelta;
use crate::files::write_atomic;

/// Writes an adapter's two files into `dir`.
///
/// # Errors
/// If writing fails.
pub fn save_adapter(adapter: &Adapter, dir: &Path) -> std::io::Result<()> {
    write_atomic(&dir.join(ADAPTER), &adapter.bytes)?;
    write_atomic(&dir.join(ADAPTER_CONFIG), &serde_json::to_vec_pretty(&*adapter.config)?)
}

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
    /// If a target module is not a linear layer of a block.
    pub fn init(config: Arc<LoraConfig>, decoder: &DecoderConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(crate::seed::mix_seed(seed, 0x10AA));
        let mut deltas = BTreeMap::new();
        for layer in 0..decoder.num_hidden_layers {
            for module in config.modules().map_err(candle_core::Error::wrap)? {
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
        let mut deltas = BTreeMap::new();
        for (key, LowRankPair { a, b }) in adapter.all_pairs(decoder)? {
            let var = |tensor: Tensor| Var::from_tensor(&tensor.to_device(device)?);
            deltas.insert(key, Pair { a: var(a)?, b: var(b)? });
        }
        Ok(Self { config: adapter.config.clone(), deltas })
    }

    /// Rank, scale and target modules.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The adapter in PEFT's format.
    pub fn to_adapter(&self) -> Result<Adapter> {
        let tensors: BTreeMap<String, Tensor> =
            self.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
        Ok(Adapter::new(self.config.clone(), super::tensors_to_bytes(&tensors)?))
    }

    /// Every trainable variable by its PEFT name, ordered by name.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        let named = |((layer, module), pair): (&(usize, Module), &Pair)| {
            let [a, b] = tensor_names(*layer, *module);
            [(a, pair.a.clone()), (b, pair.b.clone())]
        };
        self.deltas.iter().flat_map(named).collect()
    }

    /// The update of a module, if the adapter covers it.
    pub fn delta(&self, layer: usize, module: Module) -> Option<LoraDelta<'_>> {
        let Pair { a, b } = self.deltas.get(&(layer, module))?;
        Some(LoraDelta { a: a.as_tensor(), b: b.as_tensor(), scale: self.config.scale() })
    }
}
