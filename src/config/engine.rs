//! The `[engine]` table: which engine samples, where, and how.

use engine::{CacheFormat, Precision, Quantization};
use serde::{Deserialize, Serialize};

use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    pub kind: EngineKind,
    pub device: DeviceKind,
    /// How a policy gets into the engine, and what is in memory at a time.
    pub sync: SyncMode,
    /// Which CUDA device, from 0.
    pub device_index: usize,
    /// On a GPU: its memory in MiB, to count with; 0: ask the card.
    pub device_memory_mb: usize,
    /// The engine's number format (on a GPU also the trainer's). On a CPU `bf16` takes AVX-512 BF16.
    pub dtype: Precision,
    /// Whether a few completions are sampled together and scored by the trainer before the first step; where the two
    /// disagree the run ends.
    pub check: EngineCheck,
    /// Sampling temperature; the trainer's log-probabilities use the same.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn; 0: all. This and the next two cut the distribution that is
    /// sampled but not the one that is trained: leave them off in training unless you want that bias.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities reach this sum are drawn; 1: all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest are drawn; 0: all.
    pub min_p: f32,
    /// Strings that end a completion, beside the model's own stop tokens. They stay in the completion.
    pub stop: Vec<String>,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Most sequences in one batch of the engine (on a CPU mistral.rs runs one at a time).
    pub max_sequences: usize,
    /// Copies of the model that mistral.rs runs side by side on a CPU; 0: one a core for a small model, else one.
    pub replicas: usize,
    /// Memory that the paged KV cache may take, in MiB. On a CPU it is taken as it is needed, and more of it where the
    /// longest request does not fit; on a GPU all of it when a model is loaded.
    pub cache_mb: usize,
    /// On a GPU instead of `cache_mb`: the part of the card's memory that weights, cache and activations of the engine
    /// take together, as in vLLM; 0: `cache_mb` says. The trainer needs the rest.
    pub gpu_memory_utilization: f32,
    /// On a GPU: tokens in a block of mistral.rs's cache: 8, 16 or 32. The native engine's have 16.
    pub block_size: usize,
    /// On a GPU: the number format of mistral.rs's cache.
    pub cache_dtype: CacheFormat,
    /// How mistral.rs packs its matrices. The trainer's stay whole: `loss.rollout_is` corrects for the difference.
    pub quantization: Quantization,
}

/// Which engine samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// `native` on a CPU if it can run the model, and where mistral.rs is not built in; else `mistralrs`.
    Auto,
    /// Our own: continuous batching, with the trainer's weights.
    Native,
    Mistralrs,
}

/// Whether the engine is held against the trainer before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineCheck {
    /// Where nobody has seen an engine pass it: on a GPU.
    Auto,
    Always,
    Never,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

/// How the trainer and the engine share a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// The first of the others whose budget fits.
    Auto,
    /// A publish builds the new model while the old one answers.
    SideBySide,
    /// A publish lets the old model answer what runs, frees it, and builds the new one.
    Reload,
    /// The engine is unloaded while the trainer computes, and the trainer's base weights are in main memory while it
    /// does not. The native engine gives back its cache only.
    Alternate,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kind: EngineKind::Auto,
            device: DeviceKind::Cpu,
            sync: SyncMode::Auto,
            device_index: 0,
            device_memory_mb: 0,
            dtype: Precision::F32,
            check: EngineCheck::Auto,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
            max_new_tokens: 512,
            max_sequences: 64,
            replicas: 0,
            cache_mb: 4096,
            gpu_memory_utilization: 0.0,
            block_size: 32,
            cache_dtype: CacheFormat::Auto,
            quantization: Quantization::None,
        }
    }
}

impl SyncMode {
    /// As configuration files write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::SideBySide => "side_by_side",
            Self::Reload => "reload",
            Self::Alternate => "alternate",
        }
    }
}

impl EngineConfig {
    /// Checks each value alone. What an engine does not have on a device is checked by [`super::resolve::check_engine`].
    ///
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("max_new_tokens", self.max_new_tokens), ("max_sequences", self.max_sequences)])?;
        KeyError::if_outside(&[
            ("temperature", f64::from(self.temperature), 1e-3, 100.0),
            ("top_p", f64::from(self.top_p), 1e-6, 1.0),
            ("gpu_memory_utilization", f64::from(self.gpu_memory_utilization), 0.0, 1.0),
            ("min_p", f64::from(self.min_p), 0.0, 1.0),
        ])?;
        if ![8, 16, 32].contains(&self.block_size) {
            return Err(KeyError::new("block_size", format!("must be 8, 16 or 32, got {}", self.block_size)));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(KeyError::new("stop", "an empty string would end every completion at once"));
        }
        Ok(())
    }
}
