//! A LoRA adapter as it travels from the trainer to an engine and to disk: PEFT's own format.
//!
//! Tensors are f32, named `base_model.model.<module>.lora_A.weight` (rank × in) and `lora_B.weight` (out × rank).
//! Invariant: `hash` is the SHA-256 of `bytes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::EngineError;
use crate::types::AdapterHash;

/// The seven linear layers of a block, the default of `target_modules`.
pub const LINEAR_LAYERS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Shape and scale of an adapter, written as PEFT's `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by alpha / r.
    pub lora_alpha: f64,
    pub target_modules: Vec<String>,
    /// Always `LORA` for PEFT.
    pub peft_type: String,
    pub task_type: String,
    pub base_model_name_or_path: String,
    pub bias: String,
    pub lora_dropout: f64,
}

impl LoraConfig {
    pub fn new(rank: usize, alpha: f64, target_modules: Vec<String>, base_model: String) -> Self {
        Self {
            r: rank,
            lora_alpha: alpha,
            target_modules,
            peft_type: "LORA".into(),
            task_type: "CAUSAL_LM".into(),
            base_model_name_or_path: base_model,
            bias: "none".into(),
            lora_dropout: 0.0,
        }
    }

    /// What multiplies B·A: alpha / r.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / self.r as f64
    }
}

/// An immutable adapter: cheap to clone, named by its hash.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub config: Arc<LoraConfig>,
    /// The content of `adapter_model.safetensors`.
    pub bytes: Arc<[u8]>,
    pub hash: AdapterHash,
}

impl Adapter {
    pub fn new(config: Arc<LoraConfig>, bytes: Vec<u8>) -> Self {
        let hash = hash_bytes(&bytes);
        Self { config, bytes: bytes.into(), hash }
    }

    /// The hash of the bytes as they are. For a large adapter this takes a while.
    ///
    /// # Errors
    /// [`EngineError::WrongAdapter`] if `hash` names other bytes.
    pub fn verify(&self) -> Result<AdapterHash, EngineError> {
        let loaded = hash_bytes(&self.bytes);
        match loaded == self.hash {
            true => Ok(loaded),
            false => Err(EngineError::WrongAdapter { published: self.hash.clone(), loaded }),
        }
    }

    /// The tensors by name, as f32 on the CPU.
    ///
    /// # Errors
    /// If the bytes are no safetensors file or hold anything but f32 matrices.
    pub fn tensors(&self) -> Result<BTreeMap<String, candle_core::Tensor>, EngineError> {
        let file =
            safetensors::SafeTensors::deserialize(&self.bytes).map_err(|e| EngineError::Adapter(e.to_string()))?;
        file.iter().map(|(name, view)| Ok((name.to_string(), to_tensor(name, &view)?))).collect()
    }
}

fn to_tensor(name: &str, view: &safetensors::tensor::TensorView) -> Result<candle_core::Tensor, EngineError> {
    if view.dtype() != safetensors::Dtype::F32 || view.shape().len() != 2 {
        let found = (view.dtype(), view.shape());
        return Err(EngineError::Adapter(format!("{name}: expected an f32 matrix, found {found:?}")));
    }
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    candle_core::Tensor::from_vec(values, view.shape(), &candle_core::Device::Cpu)
        .map_err(|e| EngineError::Adapter(format!("{name}: {e}")))
}

/// SHA-256 of `bytes` in hexadecimal.
pub fn hash_bytes(bytes: &[u8]) -> AdapterHash {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    AdapterHash(hex.into())
}
