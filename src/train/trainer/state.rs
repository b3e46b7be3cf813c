//! Saving a trainer's state and putting it back.

use std::sync::Arc;

use engine::{Adapter, LoraConfig};

use super::Trainer;
use crate::train::lora::Lora;
use crate::train::optim::AdamW;
use crate::train::tensors_to_bytes;

/// What a resume needs, as the bytes of files.
#[derive(Debug, Clone)]
pub struct TrainerState {
    pub adapter: Adapter,
    /// The optimiser's moments, a safetensors file.
    pub optimizer: Vec<u8>,
    pub updates: u64,
}

impl Trainer {
    /// The state at this moment.
    pub fn state(&self) -> candle_core::Result<TrainerState> {
        let (moments, updates) = self.optimiser.state();
        Ok(TrainerState { adapter: self.adapter()?, optimizer: tensors_to_bytes(&moments)?, updates })
    }

    /// The same trainer in the state of a checkpoint.
    ///
    /// # Errors
    /// If the adapter or the moments do not fit this model, or the adapter has another rank, alpha or other target modules. The error
    /// names what was expected and what was found.
    pub fn restore(mut self, state: &TrainerState) -> anyhow::Result<Self> {
        check_same(self.lora.config(), &state.adapter.config)?;
        self.put_back(state)?;
        Ok(self)
    }

    /// Replaces policy and optimiser.
    ///
    /// # Errors
    /// If the adapter or the moments do not fit this model.
    pub(super) fn put_back(&mut self, state: &TrainerState) -> candle_core::Result<()> {
        // The base model's folder may have moved: its name is today's.
        let adapter = Adapter { config: Arc::new(self.lora.config().clone()), ..state.adapter.clone() };
        let lora = Lora::from_adapter(&adapter, &self.model.config, &self.device);
        let lora = lora.map_err(candle_core::Error::wrap)?;
        let vars = lora.vars();
        let mut optimiser = AdamW::new(self.settings.optim.clone(), vars.clone())?;
        let moments = candle_core::safetensors::load_buffer(&state.optimizer, &self.device)?;
        optimiser.restore(&moments.into_iter().collect(), state.updates)?;
        (self.lora, self.vars, self.optimiser) = (lora, vars, optimiser);
        Ok(())
    }
}

/// Refuses an adapter that does not match the settings.
fn check_same(expected: &LoraConfig, found: &LoraConfig) -> anyhow::Result<()> {
    let described = |config: &LoraConfig| {
        [
            ("rank", config.r.to_string()),
            ("alpha", config.lora_alpha.to_string()),
            ("target modules", config.target_modules.join(", ")),
        ]
    };
    for ((what, expected), (_, found)) in described(expected).into_iter().zip(described(found)) {
        anyhow::ensure!(expected == found, "the adapter's {what}: expected {expected}, found {found}");
    }
    Ok(())
}
