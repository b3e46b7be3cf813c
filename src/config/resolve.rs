//! What a configuration leaves open, decided once for one model on one machine.
//!
//! [`Resolved`] is a plain value. Everything that runs reads it; nothing decides again.

use engine::decoder::DecoderConfig;
use engine::native::Native;
use engine::{CacheFormat, Precision, Quantization};
use serde::{Deserialize, Serialize};

use super::engine::{DeviceKind, EngineCheck, EngineConfig, EngineKind, SyncMode};
use super::run::RunConfig;
use crate::error::InputError;

/// Whether this program can use a GPU.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// What the decisions depend on, apart from the configuration and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    pub cores: usize,
    /// Whether the CPU has the instructions of the native engine's bf16 kernels.
    pub has_bf16: bool,
    /// The GPU's memory. `None` on a CPU, and where the card is not known.
    pub card: Option<Card>,
}

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    pub total: usize,
    /// What no program has allocated.
    pub free: usize,
}

/// The engine that samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    Native,
    Mistralrs,
}

/// How trainer and engine share the memory of a device: [`SyncMode`] without `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    SideBySide,
    Reload,
    Alternate,
}

/// Every decision. [`crate::memory::Workload`] sets `sharing` and `cache_mb` on a GPU, where they depend on what fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    pub engine: EngineChoice,
    pub device: DeviceKind,
    /// What the engine computes in.
    pub engine_precision: Precision,
    /// What the trainer computes in. On a CPU always f32.
    pub trainer_precision: Precision,
    pub sharing: Sharing,
    /// Size of the engine's key-value cache, in MiB.
    pub cache_mb: usize,
    /// Copies of the model that mistral.rs runs side by side on a CPU.
    pub replicas: usize,
    /// Threads that compute micro-batches.
    pub trainer_workers: usize,
    /// Requests in flight. `None`: as many as the engine advises.
    pub rollout_workers: Option<usize>,
    /// Whether the engine is compared with the trainer before the first step.
    pub checks_engine: bool,
}

impl Sharing {
    /// As configuration files write it.
    pub fn name(self) -> &'static str {
        SyncMode::from(self).name()
    }
}

impl From<Sharing> for SyncMode {
    fn from(sharing: Sharing) -> Self {
        match sharing {
            Sharing::SideBySide => Self::SideBySide,
            Sharing::Reload => Self::Reload,
            Sharing::Alternate => Self::Alternate,
        }
    }
}

impl Resolved {
    /// # Errors
    /// Settings that the engine does not have on the device: see [`check_engine`].
    pub fn new(config: &RunConfig, model: &DecoderConfig, machine: Machine) -> Result<Self, InputError> {
        check_engine(&config.engine)?;
        let settings = &config.engine;
        let engine = engine_choice(settings, model);
        let is_gpu = settings.device == DeviceKind::Cuda;
        let computes_f32 = engine == EngineChoice::Native && !is_gpu && !machine.has_bf16;
        Ok(Self {
            engine,
            device: settings.device,
            engine_precision: if computes_f32 { Precision::F32 } else { settings.dtype },
            trainer_precision: if is_gpu { settings.dtype } else { Precision::F32 },
            sharing: configured_sharing(settings.sync).unwrap_or(Sharing::SideBySide),
            cache_mb: settings.cache_mb,
            replicas: replicas(settings.replicas, model, machine.cores),
            trainer_workers: if is_gpu { 1 } else { machine.cores },
            rollout_workers: Some(config.pipeline.rollout_workers).filter(|workers| *workers > 0),
            checks_engine: match settings.check {
                EngineCheck::Auto => is_gpu,
                EngineCheck::Always => true,
                EngineCheck::Never => false,
            },
        })
    }
}

/// The way to share a device that a configuration names; `None` for `auto`.
pub fn configured_sharing(sync: SyncMode) -> Option<Sharing> {
    match sync {
        SyncMode::Auto => None,
        SyncMode::SideBySide => Some(Sharing::SideBySide),
        SyncMode::Reload => Some(Sharing::Reload),
        SyncMode::Alternate => Some(Sharing::Alternate),
    }
}

/// What `engine.kind` says, or what `auto` means for this model. On a CPU the native engine was faster on every model that
/// was measured (docs/benchmarks.md), so `auto` takes it where it can run the model. On a GPU neither was measured yet.
fn engine_choice(settings: &EngineConfig, model: &DecoderConfig) -> EngineChoice {
    let native_can = settings.quantization == Quantization::None && Native::supports(model);
    match (settings.kind, settings.device) {
        (EngineKind::Auto, DeviceKind::Cpu) if native_can => EngineChoice::Native,
        (EngineKind::Auto, DeviceKind::Cpu) => EngineChoice::Mistralrs,
        (_, DeviceKind::Cuda) => choice_on_gpu(settings.kind),
        (EngineKind::Native, DeviceKind::Cpu) => EngineChoice::Native,
        (EngineKind::Mistralrs, DeviceKind::Cpu) => EngineChoice::Mistralrs,
    }
}

/// On a GPU the choice does not depend on the model. `auto` takes mistral.rs where it is built in.
fn choice_on_gpu(kind: EngineKind) -> EngineChoice {
    match kind {
        EngineKind::Auto if cfg!(feature = "mistralrs") => EngineChoice::Mistralrs,
        EngineKind::Auto | EngineKind::Native => EngineChoice::Native,
        EngineKind::Mistralrs => EngineChoice::Mistralrs,
    }
}

/// One copy per core for a model whose matrix products are too small to be split over cores.
fn replicas(configured: usize, model: &DecoderConfig, cores: usize) -> usize {
    const SMALL: usize = 20_000_000;
    match configured {
        0 if model.parameters() < SMALL => cores,
        0 => 1,
        replicas => replicas,
    }
}

/// # Errors
/// Settings that the engine does not have on the device, whatever the model.
pub fn check_engine(engine: &EngineConfig) -> Result<(), InputError> {
    let is_native = match engine.device {
        DeviceKind::Cpu => engine.kind == EngineKind::Native,
        DeviceKind::Cuda => choice_on_gpu(engine.kind) == EngineChoice::Native,
    };
    if is_native {
        check_native(engine)?;
    }
    match (engine.device, engine.dtype, engine.kind) {
        (DeviceKind::Cpu, Precision::Bf16, EngineKind::Mistralrs) => {
            let problem = "mistral.rs has no bf16 on a CPU; use \"f32\", or engine.kind = \"native\"";
            Err(InputError::new("engine.dtype", problem))
        }
        (DeviceKind::Cpu, _, EngineKind::Mistralrs) if HAS_CUDA => {
            let problem = "in a program with CUDA mistral.rs does not compute on a CPU; use \"native\" or engine.device = \"cuda\", or build it without";
            Err(InputError::new("engine.kind", problem))
        }
        // With flash-attn mistral.rs 0.8.1 leaves the causal mask to kernels that it does not call for f32.
        (DeviceKind::Cuda, Precision::F32, _) if cfg!(feature = "flash-attn") => {
            let problem =
                "a program with flash-attn has no f32 on a GPU; use \"bf16\", or build it with --features cuda";
            Err(InputError::new("engine.dtype", problem))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// Settings that the native engine does not have.
fn check_native(engine: &EngineConfig) -> Result<(), InputError> {
    let is_gpu = engine.device == DeviceKind::Cuda;
    if engine.quantization != Quantization::None {
        let problem = "the native engine has no packed weights; use engine.kind = \"mistralrs\", or \"none\"";
        return Err(InputError::new("engine.quantization", problem));
    }
    if is_gpu && engine.cache_dtype != CacheFormat::Auto {
        let problem =
            "the native engine's cache has the format of engine.dtype; use engine.kind = \"mistralrs\", or \"auto\"";
        return Err(InputError::new("engine.cache_dtype", problem));
    }
    if is_gpu && engine.sync == SyncMode::Reload {
        let problem = "the native engine samples with the trainer's own weights, so that nothing is loaded again; use \"auto\", \"side_by_side\" or \"alternate\"";
        return Err(InputError::new("engine.sync", problem));
    }
    Ok(())
}
