//! The `[engine]` table: which engine samples, where, and how.

use engine::{CacheFormat, Precision, Quantization};
use serde::{Deserialize, Serialize};

use super::remote::{Endpoint, RemoteConfig, check_endpoints};
use crate::error::KeyError;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    pub kind: EngineKind,
    pub device: DeviceKind,
    /// How a policy gets into the engine, and what is in memory at the same time.
    pub sync: SyncMode,
    /// Which CUDA device, from 0.
    pub device_index: usize,
    /// Memory of the GPU that the budget assumes, in MiB. 0: ask the card.
    pub device_memory_mb: usize,
    /// The engine's number format, and on a GPU also the trainer's. On a CPU `bf16` needs AVX-512 BF16. With servers it is the
    /// format that they compute in.
    pub dtype: Precision,
    /// Whether the engine is compared with the trainer before the first step: a few completions are sampled together and
    /// scored by the trainer. If the two disagree, the run ends.
    pub check: EngineCheck,
    /// Sampling temperature. The trainer's log-probabilities use the same.
    pub temperature: f32,
    /// Only this many of the likeliest tokens can be drawn. 0: all. This and the next two cut the distribution that is
    /// sampled, but not the one that is trained, which biases training. Leave them off unless you want that.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities add up to this can be drawn. 1: all.
    pub top_p: f32,
    /// Only tokens with at least this share of the likeliest token's probability can be drawn. 0: all.
    pub min_p: f32,
    /// Strings that end a completion, in addition to the model's stop tokens. They stay in the completion.
    pub stop: Vec<String>,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// The most sequences in one batch of the engine. On a CPU mistral.rs runs one at a time.
    pub max_sequences: usize,
    /// Copies of the model that mistral.rs runs side by side on a CPU. 0: one per core for a small model, else one.
    pub replicas: usize,
    /// Memory of the paged KV cache, in MiB. On a CPU it is a limit: memory is taken when it is needed, and more than the limit
    /// if the longest request does not fit. On a GPU all of it is taken when a model is loaded.
    pub cache_mb: usize,
    /// On a GPU, instead of `cache_mb`: the part of the card's memory that weights, cache and activations of the engine
    /// take together, as in vLLM. The trainer needs the rest. 0: use `cache_mb`.
    pub gpu_memory_utilization: f32,
    /// On a GPU: tokens per block of mistral.rs's cache: 8, 16 or 32. The native engine's blocks have 16.
    pub block_size: usize,
    /// On a GPU: the number format of mistral.rs's cache.
    pub cache_dtype: CacheFormat,
    /// How mistral.rs quantizes its matrices. The trainer's are not quantized; `loss.rollout_is` corrects for the difference.
    pub quantization: Quantization,
    /// Servers that sample instead of this process: addresses such as `http://host:8000`, or tables with `url`, `model` and
    /// `max_sequences`.
    pub endpoints: Vec<Endpoint>,
    /// How to talk to the servers.
    pub remote: RemoteConfig,
}

/// Which engine samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// `remote` if there are `endpoints`. Else on a CPU `native` if it can run the model, or `mistralrs`; on a GPU `mistralrs`
    /// if it is built in, or `native`.
    Auto,
    /// Our own engine: continuous batching, with the trainer's weights.
    Native,
    Mistralrs,
    /// Serving engines over HTTP: `dump-rl serve`, vLLM or SGLang.
    Remote,
}

/// Whether the engine is compared with the trainer before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineCheck {
    /// On a GPU, where no engine has passed the comparison yet, and with servers.
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
    /// The first of the others that fits the memory.
    Auto,
    /// A publish builds the new model while the old one answers.
    SideBySide,
    /// A publish lets the old model finish its requests, frees it, and builds the new one.
    Reload,
    /// The engine is unloaded while the trainer computes. The trainer's base weights are in main memory while it does not.
    /// The native engine frees only its cache.
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
            endpoints: Vec::new(),
            remote: RemoteConfig::default(),
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
    /// Checks each value by itself. [`super::resolve::check_engine`] checks what an engine can do on a device.
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
        check_endpoints(&self.endpoints)?;
        self.remote.check().map_err(|e| e.under("remote"))?;
        if self.kind == EngineKind::Remote && !self.has_endpoints() {
            let problem = "name the servers: endpoints = [\"http://10.0.0.2:8000\"], or set remote.endpoints_file";
            return Err(KeyError::new("endpoints", problem));
        }
        Ok(())
    }

    /// Whether there are servers.
    pub fn has_endpoints(&self) -> bool {
        !self.endpoints.is_empty() || !self.remote.endpoints_file.as_os_str().is_empty()
    }

    /// Whether servers sample.
    pub fn is_remote(&self) -> bool {
        match self.kind {
            EngineKind::Remote => true,
            EngineKind::Auto => self.has_endpoints(),
            EngineKind::Native | EngineKind::Mistralrs => false,
        }
    }
}
