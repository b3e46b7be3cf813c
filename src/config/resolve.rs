//! What a configuration leaves open, decided once for one model on one machine.
//!
//! [`Resolved`] is a plain value. Everything that runs reads it; nothing decides again. (`trainer.recompute = "auto"` is not here,
//! because it depends on each batch.)

use std::fmt;

use engine::decoder::DecoderConfig;
use engine::native::Native;
use engine::{CacheFormat, Precision, Quantization};
use serde::{Deserialize, Serialize};

use super::engine::{DeviceKind, EngineCheck, EngineConfig, EngineKind, SyncMode};
use super::log::Compression;
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
    Remote,
}

/// As in a configuration.
impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Mistralrs => "mistralrs",
            Self::Remote => "remote",
        })
    }
}

/// How trainer and engine share the memory of a device: [`SyncMode`] without `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    SideBySide,
    Reload,
    Alternate,
}

/// How a run's logs are written: [`Compression`] without `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Plain,
    Zstd,
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
    /// Tokens of the longest prompt with its completion, at most the model's context.
    pub longest_request: usize,
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

impl SyncMode {
    /// The way of sharing that is configured; `None` for `auto`.
    pub fn sharing(self) -> Option<Sharing> {
        match self {
            Self::Auto => None,
            Self::SideBySide => Some(Sharing::SideBySide),
            Self::Reload => Some(Sharing::Reload),
            Self::Alternate => Some(Sharing::Alternate),
        }
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
        let is_remote = engine == EngineChoice::Remote;
        let computes_f32 = engine == EngineChoice::Native && !is_gpu && !machine.has_bf16;
        Ok(Self {
            engine,
            device: settings.device,
            engine_precision: if computes_f32 { Precision::F32 } else { settings.dtype },
            trainer_precision: if is_gpu { settings.dtype } else { Precision::F32 },
            // Servers take nothing of this machine's memory.
            sharing: settings.sync.sharing().filter(|_| !is_remote).unwrap_or(Sharing::SideBySide),
            cache_mb: if is_remote { 0 } else { settings.cache_mb },
            replicas: replicas(settings.replicas, model, machine.cores),
            trainer_workers: if is_gpu { 1 } else { machine.cores },
            longest_request: model.max_position_embeddings,
            rollout_workers: match config.pipeline.rollout_workers {
                // More servers may come later.
                0 if is_remote => Some(most_in_flight(config)),
                0 => None,
                workers => Some(workers),
            },
            checks_engine: match settings.check {
                EngineCheck::Auto => is_gpu || is_remote,
                EngineCheck::Always => true,
                EngineCheck::Never => false,
            },
        })
    }
}

/// What `engine.kind` says, or what `auto` means for this model. On a CPU the native engine was faster on every model that
/// was measured (docs/benchmarks.md), so `auto` takes it where it can run the model. On a GPU neither was measured yet.
fn engine_choice(settings: &EngineConfig, model: &DecoderConfig) -> EngineChoice {
    let native_can = settings.quantization == Quantization::None && Native::supports(model);
    match (settings.device, settings.kind) {
        (_, EngineKind::Remote) => EngineChoice::Remote,
        (_, EngineKind::Auto) if settings.has_endpoints() => EngineChoice::Remote,
        (DeviceKind::Cuda, kind) => choice_on_gpu(kind),
        (DeviceKind::Cpu, EngineKind::Mistralrs) => EngineChoice::Mistralrs,
        (DeviceKind::Cpu, EngineKind::Auto) if !native_can => EngineChoice::Mistralrs,
        (DeviceKind::Cpu, EngineKind::Auto | EngineKind::Native) => EngineChoice::Native,
    }
}

/// On a GPU the choice does not depend on the model. `auto` takes mistral.rs where it is built in.
fn choice_on_gpu(kind: EngineKind) -> EngineChoice {
    match kind {
        EngineKind::Auto if cfg!(feature = "mistralrs") => EngineChoice::Mistralrs,
        EngineKind::Auto | EngineKind::Native => EngineChoice::Native,
        EngineKind::Mistralrs => EngineChoice::Mistralrs,
        EngineKind::Remote => EngineChoice::Remote,
    }
}

/// The most groups that the scheduler lets run: those of a step, and of each step that it may be ahead.
fn most_in_flight(config: &RunConfig) -> usize {
    const MOST: usize = 16_384;
    let steps = usize::try_from(config.pipeline.max_off_policy_steps).unwrap_or(MOST).saturating_add(1);
    steps.saturating_mul(config.batch_size).clamp(1, MOST)
}

/// What `log.compression` says. `auto` compresses where the completions of all steps may take more than 1 GB as text: people read
/// the files of small runs with tools that know no compression.
pub fn log_format(config: &RunConfig) -> LogFormat {
    const PLAIN_BYTES: u64 = 1_000_000_000;
    match config.log.compression {
        Compression::Auto if most_rollout_bytes(config) > PLAIN_BYTES => LogFormat::Zstd,
        Compression::Auto | Compression::None => LogFormat::Plain,
        Compression::Zstd => LogFormat::Zstd,
    }
}

/// What the completions of all steps take as text if each has the greatest length.
fn most_rollout_bytes(config: &RunConfig) -> u64 {
    const BYTES_A_TOKEN: u64 = 4;
    const BESIDE_TEXT: u64 = 350;
    let completions =
        config.max_steps.saturating_mul(config.batch_size as u64).saturating_mul(config.group_size as u64);
    let longest = (config.engine.max_new_tokens as u64).saturating_mul(BYTES_A_TOKEN);
    completions.saturating_mul(longest.saturating_add(BESIDE_TEXT))
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
    if engine.is_remote() {
        return check_remote(engine);
    }
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
            let problem = "in a program with CUDA mistral.rs does not compute on a CPU; use \"native\" or engine.device = \"cuda\", or build without the feature cuda";
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

/// # Errors
/// Settings that say something about an engine in this process.
fn check_remote(engine: &EngineConfig) -> Result<(), InputError> {
    if engine.quantization != Quantization::None {
        let problem = "servers are started with their own quantization; use \"none\", and loss.rollout_is = \"truncate\" \
                       if theirs is another";
        return Err(InputError::new("engine.quantization", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets;

    const MACHINE: Machine = Machine { cores: 4, has_bf16: true, card: None };

    fn config(kind: EngineKind, device: DeviceKind, dtype: Precision) -> RunConfig {
        let mut config = RunConfig::default();
        (config.engine.kind, config.engine.device, config.engine.dtype) = (kind, device, dtype);
        config
    }

    fn resolved(config: &RunConfig, machine: Machine) -> Resolved {
        Resolved::new(config, &presets::find("kk-tiny").expect("a known model"), machine).expect("settings that fit")
    }

    #[test]
    fn auto_takes_the_native_engine_on_a_cpu_unless_weights_are_quantized() {
        let mut config = config(EngineKind::Auto, DeviceKind::Cpu, Precision::F32);
        assert_eq!(resolved(&config, MACHINE).engine, EngineChoice::Native);
        config.engine.quantization = Quantization::Q8_0;
        assert_eq!(resolved(&config, MACHINE).engine, EngineChoice::Mistralrs);
    }

    #[test]
    fn auto_takes_servers_where_there_are_any() {
        let mut config = config(EngineKind::Auto, DeviceKind::Cuda, Precision::Bf16);
        config.engine.remote.endpoints_file = "servers.txt".into();
        assert_eq!(resolved(&config, MACHINE).engine, EngineChoice::Remote);
        config.engine.kind = EngineKind::Native;
        assert_eq!(resolved(&config, MACHINE).engine, EngineChoice::Native);
    }

    #[test]
    fn auto_takes_mistral_rs_on_a_gpu_where_it_is_built_in() {
        let config = config(EngineKind::Auto, DeviceKind::Cuda, Precision::Bf16);
        let expected = if cfg!(feature = "mistralrs") { EngineChoice::Mistralrs } else { EngineChoice::Native };
        assert_eq!(resolved(&config, MACHINE).engine, expected);
    }

    #[test]
    fn number_formats_follow_device_and_cpu() {
        let check = |device, has_bf16, engine, trainer| {
            let config = config(EngineKind::Native, device, Precision::Bf16);
            let resolved = resolved(&config, Machine { has_bf16, ..MACHINE });
            assert_eq!(
                (resolved.engine_precision, resolved.trainer_precision),
                (engine, trainer),
                "{device:?} {has_bf16}"
            );
        };
        check(DeviceKind::Cpu, true, Precision::Bf16, Precision::F32);
        check(DeviceKind::Cpu, false, Precision::F32, Precision::F32);
        check(DeviceKind::Cuda, false, Precision::Bf16, Precision::Bf16);
    }

    #[test]
    fn threads_copies_and_the_check_follow_the_device() {
        let cpu = resolved(&config(EngineKind::Native, DeviceKind::Cpu, Precision::F32), MACHINE);
        assert_eq!((cpu.trainer_workers, cpu.replicas, cpu.checks_engine, cpu.rollout_workers), (4, 4, false, None));
        let gpu = resolved(&config(EngineKind::Native, DeviceKind::Cuda, Precision::Bf16), MACHINE);
        assert_eq!((gpu.trainer_workers, gpu.checks_engine, gpu.sharing), (1, true, Sharing::SideBySide));
        let mut remote = config(EngineKind::Remote, DeviceKind::Cpu, Precision::F32);
        (remote.batch_size, remote.pipeline.max_off_policy_steps) = (16, 2);
        let remote = resolved(&remote, MACHINE);
        assert_eq!((remote.rollout_workers, remote.checks_engine, remote.cache_mb), (Some(48), true, 0));
        let mut given = config(EngineKind::Native, DeviceKind::Cpu, Precision::F32);
        (given.engine.check, given.pipeline.rollout_workers, given.engine.replicas) = (EngineCheck::Always, 3, 2);
        let given = resolved(&given, MACHINE);
        assert_eq!((given.checks_engine, given.rollout_workers, given.replicas), (true, Some(3), 2));
    }

    #[test]
    fn auto_compresses_the_logs_of_long_runs() {
        let check = |compression, max_steps, expected| {
            let mut config = RunConfig { max_steps, batch_size: 16, group_size: 8, ..RunConfig::default() };
            (config.log.compression, config.engine.max_new_tokens) = (compression, 640);
            assert_eq!(log_format(&config), expected, "{compression:?} {max_steps}");
        };
        // 373 kB a step.
        check(Compression::Auto, 2_600, LogFormat::Plain);
        check(Compression::Auto, 2_700, LogFormat::Zstd);
        check(Compression::Auto, 1_000_000_000, LogFormat::Zstd);
        check(Compression::None, 10_000, LogFormat::Plain);
        check(Compression::Zstd, 1, LogFormat::Zstd);
    }

    #[test]
    fn what_an_engine_does_not_have_is_refused_by_its_key() {
        let refused = |config: RunConfig, key: &str| {
            assert_eq!(check_engine(&config.engine).expect_err("not possible").place, key, "{:?}", config.engine);
        };
        refused(config(EngineKind::Mistralrs, DeviceKind::Cpu, Precision::Bf16), "engine.dtype");
        let mut packed = config(EngineKind::Remote, DeviceKind::Cpu, Precision::Bf16);
        packed.engine.quantization = Quantization::Q8_0;
        refused(packed, "engine.quantization");
        let native = |device| config(EngineKind::Native, device, Precision::Bf16);
        let mut quantized = native(DeviceKind::Cpu);
        quantized.engine.quantization = Quantization::Q4K;
        refused(quantized, "engine.quantization");
        let mut cache = native(DeviceKind::Cuda);
        cache.engine.cache_dtype = CacheFormat::F8E4M3;
        refused(cache, "engine.cache_dtype");
        let mut reload = native(DeviceKind::Cuda);
        reload.engine.sync = SyncMode::Reload;
        refused(reload, "engine.sync");
    }
}
