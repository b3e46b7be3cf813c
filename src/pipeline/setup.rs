//! From a configuration to what a run, an evaluation or a benchmark starts from: rows, decisions, weights.

use std::sync::Arc;

use anyhow::Result;
use engine::decoder::DecoderConfig;

use super::inputs::Inputs;
use crate::config::resolve::{Resolved, Sharing};
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::memory::Workload;
use crate::model::base::Base;
use crate::model::{device, hub};

/// Everything that is read before something runs.
pub struct Setup {
    pub inputs: Arc<Inputs>,
    pub base: Base,
}

impl Setup {
    /// For an evaluation, where nothing is trained: whether trainer and engine fit the device together is not checked.
    ///
    /// # Errors
    /// As [`Inputs::load`], and if the weights are missing, wrong, or for a device that is not there.
    pub fn for_evaluation(config: RunConfig) -> Result<Self> {
        Self::load(config, |workload| Ok(workload.unchecked()))
    }

    /// For training.
    ///
    /// # Errors
    /// As [`Setup::for_evaluation`], and if trainer and engine do not fit the device together. Then no weight was read.
    pub fn for_training(config: RunConfig) -> Result<Self> {
        Self::load(config, |workload| workload.fit())
    }

    fn load(config: RunConfig, decide: impl FnOnce(Workload) -> Result<Resolved, InputError>) -> Result<Self> {
        let inputs = Inputs::load(config)?;
        let (config, decoder) = (&inputs.config, &inputs.decoder);
        // Opened once: to candle two handles of one card are two devices. Its absence is reported after what does not fit.
        let device = device::open(&config.engine);
        let machine = device::machine(&config.engine, device.as_ref().ok());
        let workload = Workload::new(config, decoder, machine, inputs.longest_prompt())?;
        let resolved = decide(Workload { eval_prompt_tokens: inputs.eval_prompt_tokens(), ..workload })?;
        let (config, decoder, folder) = (config.clone(), decoder.clone(), inputs.folder.clone());
        let base = Base::load(config, folder, decoder, resolved, device?)?;
        Ok(Self { inputs: Arc::new(inputs), base })
    }
}

/// For benchmarks: without tokenizer and rows, and with the base weights on the device whatever `engine.sync` says.
///
/// # Errors
/// A missing or wrong model, or a device that is not there.
pub fn bench_base(config: RunConfig) -> Result<Base> {
    let folder = hub::folder(&config.model)?;
    let decoder = DecoderConfig::load(&folder)?;
    let prompt_tokens = config.bench.prompt_tokens.iter().copied().max().unwrap_or(0);
    let device = device::open(&config.engine);
    let machine = device::machine(&config.engine, device.as_ref().ok());
    let resolved = Workload::new(&config, &decoder, machine, prompt_tokens)?.unchecked();
    let on_device = Resolved { sharing: Sharing::SideBySide, ..resolved };
    let new_tokens = config.bench.new_tokens.iter().copied().max().unwrap_or(0);
    let base = Base::load(config, folder, decoder, on_device, device?)?;
    Ok(Base { resolved: Resolved { longest_request: prompt_tokens + new_tokens, ..resolved }, ..base })
}
