//! A base model in memory: its shape, its weights, and where they are.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use engine::Precision;
use engine::decoder::{DecoderConfig, Weights};

use crate::config::resolve::{EngineChoice, Resolved, Sharing};
use crate::config::run::RunConfig;

/// What an engine and a trainer are started from. Clones share the weights.
#[derive(Clone)]
pub struct Base {
    pub config: RunConfig,
    /// The folder that `config.model` stands for.
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    /// Read once, shared by the trainer and an engine in this process.
    pub weights: Weights,
    pub resolved: Resolved,
    /// The trainer's device.
    pub device: Device,
}

impl Base {
    /// Reads the weights. If trainer and engine alternate, they stay in main memory while nothing is computed, unless the engine
    /// samples with them too.
    ///
    /// # Errors
    /// Weights that are missing or do not fit `decoder`.
    pub fn load(
        config: RunConfig,
        folder: PathBuf,
        decoder: DecoderConfig,
        resolved: Resolved,
        device: Device,
    ) -> Result<Self> {
        let dtype = match resolved.trainer_precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let rests = resolved.sharing == Sharing::Alternate && resolved.engine == EngineChoice::Mistralrs;
        let weights = Weights::load(&folder, &decoder, dtype, if rests { &Device::Cpu } else { &device })?;
        Ok(Self { config, folder, decoder, weights, resolved, device })
    }
}
