//! Writing the trained model or adapter.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Result, Tensor};
use engine::decoder::number_formats;

use super::SftTrainer;
use crate::files::write_atomic;
use crate::model::folder::write_tensors;
use crate::train::lora::save_adapter;

const CONFIG: &str = "config.json";

/// The model that training started from. The saved model keeps its configuration, byte for byte, and its number formats.
pub struct Origin {
    config: Vec<u8>,
    formats: BTreeMap<String, DType>,
}

impl Origin {
    /// Reads what must be kept of the model in `dir`.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { config: std::fs::read(dir.join(CONFIG))?, formats: number_formats(dir)? })
    }
}

impl SftTrainer {
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
        write_atomic(&dir.join(CONFIG), &config)?;
        let format = |name: &str| self.origin.as_ref().and_then(|origin| origin.formats.get(name)).copied();
        let stored = |(name, tensor): (String, Tensor)| {
            let dtype = format(&name).unwrap_or(DType::BF16);
            Ok((name, tensor.to_dtype(dtype)?))
        };
        let tensors = self.model.weights.named(model).into_iter().map(stored).collect::<Result<_>>()?;
        write_tensors(&dir.join("model.safetensors"), &tensors)
    }
}
