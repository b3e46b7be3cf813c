//! A trainer for a base model, as its configuration says.

use std::sync::Arc;

use anyhow::Result;
use engine::LoraConfig;

use super::trainer::{Trainer, TrainerSettings};
use crate::model::base::Base;
use crate::model::hub;

impl Base {
    /// A trainer with a fresh adapter, which changes nothing yet.
    ///
    /// # Errors
    /// Tensors that cannot be allocated on the device.
    pub fn trainer(&self) -> Result<Trainer> {
        let config = &self.config;
        let settings = TrainerSettings {
            loss: config.loss.clone(),
            optim: config.optim.clone(),
            trainer: config.trainer.clone(),
            updates_per_step: config.updates_per_step(),
            total_updates: config.max_steps * config.updates_per_step(),
            temperature: f64::from(config.engine.temperature),
            max_new_tokens: config.engine.max_new_tokens,
            sketches_gradients: config.curriculum.needs_gradients(),
            workers: self.resolved.trainer_workers,
        };
        let lora = &config.lora;
        let base = hub::without_revision(&config.model.to_string_lossy()).to_string();
        let lora = Arc::new(LoraConfig::new(lora.rank, lora.alpha, lora.target_modules.clone(), base));
        let (device, decoder, weights) = (self.device.clone(), self.decoder.clone(), self.weights.clone());
        Ok(Trainer::new(device, decoder, weights, lora, settings, config.seed)?)
    }
}
