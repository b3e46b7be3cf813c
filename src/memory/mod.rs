//! How much memory a run will take, and how trainer and engine share a device: computed before anything is loaded.
//!
//! - [`predict`]: a run on a CPU, and the trainer on any device · [`budget`]: trainer and engine on one GPU
//! - [`process`]: what this process takes now
//!
//! Every formula reads a [`Workload`]. All are upper bounds: they assume that every completion has the greatest length.

pub mod budget;
pub mod predict;
pub mod process;

use engine::decoder::DecoderConfig;

use crate::config::resolve::{Machine, Resolved};
use crate::config::run::RunConfig;
use crate::error::InputError;

/// Everything about a run that its memory depends on.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    pub config: &'a RunConfig,
    pub model: &'a DecoderConfig,
    pub machine: Machine,
    /// Tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// Tokens of all prompts of an evaluation. 0 without evaluations.
    pub eval_prompt_tokens: usize,
    /// The decisions. On a GPU `sharing` and `cache_mb` are decided by [`Workload::fit`].
    pub resolved: Resolved,
}

impl<'a> Workload<'a> {
    /// # Errors
    /// Settings that the engine does not have on the device.
    pub fn new(
        config: &'a RunConfig,
        model: &'a DecoderConfig,
        machine: Machine,
        prompt_tokens: usize,
    ) -> Result<Self, InputError> {
        let longest_request = (prompt_tokens + config.engine.max_new_tokens).min(model.max_position_embeddings);
        let resolved = Resolved { longest_request, ..Resolved::new(config, model, machine)? };
        Ok(Self { config, model, machine, prompt_tokens, eval_prompt_tokens: 0, resolved })
    }

    /// The same run with another configuration. `None` if the engine does not have its settings.
    fn with<'b>(&self, config: &'b RunConfig) -> Option<Workload<'b>>
    where
        'a: 'b,
    {
        let workload = Workload::new(config, self.model, self.machine, self.prompt_tokens).ok()?;
        Some(Workload { eval_prompt_tokens: self.eval_prompt_tokens, ..workload })
    }
}
