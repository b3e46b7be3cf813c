//! From a configuration to the things that run: model, tokenizer, rows, engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device};
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::{Adapter, CacheFormat, Engine, LoraConfig, Precision, Quantization, Sampling};

use crate::budget::{self, Share};
use crate::config::run::{DeviceKind, EngineConfig, EngineKind, RunConfig, SyncMode};
use crate::curriculum::Mixture;
use crate::dataset::{self, Dataset};
use crate::error::InputError;
use crate::eval::EvalSettings;
use crate::gpu;
use crate::hub;
use crate::reward::RewardSettings;
use crate::tokenizer::ChatTokenizer;
use crate::train::trainer::{Trainer, TrainerSettings};

/// Everything that is read before a run starts; nothing of it changes later.
pub struct Setup {
    pub config: RunConfig,
    /// The base model's folder, which `config.model` may give by its name on the hub.
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    /// The base model: read once, shared by the trainer and an engine in this process.
    pub weights: Weights,
    pub tokenizer: Arc<ChatTokenizer>,
    pub train: Arc<Dataset>,
    pub test: Arc<Dataset>,
    pub share: Share,
    device: Device,
}

/// All of it but the weights.
pub struct Inputs {
    pub config: RunConfig,
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    pub tokenizer: ChatTokenizer,
    pub train: Dataset,
    pub test: Dataset,
}

impl Inputs {
    /// # Errors
    /// A missing or wrong model, tokenizer or row; test rows missing although evaluation is on.
    pub fn load(config: RunConfig) -> Result<Self> {
        let folder = model_folder(&config)?;
        let decoder = DecoderConfig::load(&folder)?;
        let tokenizer = ChatTokenizer::load(&folder, &decoder)?;
        let (train, test) = dataset::load_rows(&config)?;
        let context = decoder.max_position_embeddings;
        let train = Dataset::new(train, &tokenizer, context)?;
        let test = Dataset::new(test, &tokenizer, context)?;
        let untested = train.sources.iter().find(|s| !test.sources.iter().any(|t| t.name == s.name));
        if let (Some(source), true) = (untested, config.eval.interval > 0) {
            let problem = format!("distribution {} has no test rows; add some, or set eval.interval = 0", source.name);
            return Err(InputError::new("data", problem).into());
        }
        Ok(Self { config, folder, decoder, tokenizer, train, test })
    }

    /// Tokens of the longest prompt that is answered, in training or in an evaluation.
    pub fn longest_prompt(&self) -> usize {
        let test = self.test.sources.iter().filter(|_| self.config.eval.interval > 0);
        let items = self.train.sources.iter().chain(test).flat_map(|source| &source.items);
        items.map(|item| item.prompt.len()).max().unwrap_or(0)
    }
}

impl Setup {
    /// For anything but training: whether trainer and engine fit the device together is not asked.
    ///
    /// # Errors
    /// As [`Inputs::load`], and if the weights are missing, wrong, or for a device that is not there.
    pub fn load(config: RunConfig) -> Result<Self> {
        let inputs = Inputs::load(config)?;
        let share = Share::unchecked(&inputs.config, &inputs.decoder, inputs.longest_prompt());
        Self::with_share(inputs, share)
    }

    /// For training.
    ///
    /// # Errors
    /// As [`Setup::load`], and if trainer and engine do not fit the device together; then no weight has been read.
    pub fn for_training(config: RunConfig) -> Result<Self> {
        let inputs = Inputs::load(config)?;
        let share = share(&inputs.config, &inputs.decoder, inputs.longest_prompt())?;
        Self::with_share(inputs, share)
    }

    fn with_share(inputs: Inputs, share: Share) -> Result<Self> {
        let Inputs { config, folder, decoder, tokenizer, train, test } = inputs;
        let (device, weights) = weights(&config, share.sync, &folder, &decoder)?;
        let (tokenizer, train, test) = (tokenizer.into(), train.into(), test.into());
        Ok(Self { decoder, weights, tokenizer, train, test, folder, config, share, device })
    }

    /// How completions to train on are sampled.
    pub fn sampling(&self) -> Sampling {
        let engine = &self.config.engine;
        Sampling {
            temperature: engine.temperature,
            top_k: engine.top_k,
            top_p: engine.top_p,
            min_p: engine.min_p,
            max_new_tokens: engine.max_new_tokens,
            stop_tokens: self.tokenizer.stop_tokens.clone(),
            stop_strings: ChatTokenizer::stop_strings(&self.tokenizer, engine.stop.clone()),
        }
    }

    pub fn eval_settings(&self) -> EvalSettings {
        let sampling = Sampling { temperature: self.config.eval.temperature, ..self.sampling() };
        EvalSettings {
            sampling,
            samples: self.config.eval.samples,
            seed: engine::seed::mix_seed(self.config.data.seed, 0xE7A1),
        }
    }

    pub fn reward_settings(&self) -> RewardSettings {
        RewardSettings {
            scale: self.config.advantage.scale,
            max_new_tokens: self.config.engine.max_new_tokens,
            overlong_buffer: self.config.reward.overlong_buffer,
            overlong_penalty: self.config.reward.overlong_penalty,
            context: self.decoder.max_position_embeddings,
        }
    }

    /// What the curriculum draws from.
    pub fn mixture(&self) -> Mixture {
        let (sources, sizes) = (self.train.names(), self.train.sizes());
        Mixture { sources, sizes, max_steps: self.config.max_steps, batch_size: self.config.batch_size }
    }

    /// A trainer with a fresh adapter.
    pub fn trainer(&self) -> Result<Trainer> {
        self.base().trainer()
    }

    /// What an engine and a trainer are started from.
    pub fn base(&self) -> Base {
        let Self { config, folder, decoder, weights, share, device, .. } = self;
        let (config, folder, decoder, weights) = (config.clone(), folder.clone(), decoder.clone(), weights.clone());
        Base { config, folder, decoder, weights, share: *share, device: device.clone() }
    }
}

/// # Errors
/// A number format that the engine does not have on the device.
pub fn check_format(config: &RunConfig) -> Result<(), InputError> {
    let kind = match config.engine.device {
        DeviceKind::Cpu => config.engine.kind,
        DeviceKind::Cuda => config.engine.kind_on_gpu(),
    };
    if kind == EngineKind::Native {
        check_native(&config.engine)?;
    }
    match (config.engine.device, config.engine.dtype, config.engine.kind) {
        (DeviceKind::Cpu, Precision::Bf16, EngineKind::Mistralrs) => {
            let problem = "mistral.rs has no bf16 on a CPU; use \"f32\", or engine.kind = \"native\"";
            Err(InputError::new("engine.dtype", problem))
        }
        (DeviceKind::Cpu, _, EngineKind::Mistralrs) if gpu::HAS_CUDA => {
            let problem = "in a program with CUDA mistral.rs does not compute on a CPU; use \"native\" or engine.device = \"cuda\", or build it without";
            Err(InputError::new("engine.kind", problem))
        }
        // mistral.rs 0.8.1 then leaves the causal mask to kernels that it does not call for f32.
        (DeviceKind::Cuda, Precision::F32, _) if cfg!(feature = "flash-attn") => {
            let problem =
                "a program with flash-attn has no f32 on a GPU; use \"bf16\", or build it with --features cuda";
            Err(InputError::new("engine.dtype", problem))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// What the native engine does not have.
fn check_native(engine: &EngineConfig) -> Result<(), InputError> {
    if engine.quantization != Quantization::None {
        let problem = "the native engine has no packed weights; use engine.kind = \"mistralrs\", or \"none\"";
        return Err(InputError::new("engine.quantization", problem));
    }
    if engine.device == DeviceKind::Cuda && engine.cache_dtype != CacheFormat::Auto {
        let problem =
            "the native engine's cache has the format of engine.dtype; use engine.kind = \"mistralrs\", or \"auto\"";
        return Err(InputError::new("engine.cache_dtype", problem));
    }
    if engine.device == DeviceKind::Cuda && engine.sync == SyncMode::Reload {
        let problem = "the native engine samples with the trainer's own weights, so that nothing is loaded again; use \"auto\", \"side_by_side\" or \"alternate\"";
        return Err(InputError::new("engine.sync", problem));
    }
    Ok(())
}

/// The trainer's device and number format. On a CPU it computes in f32 whatever the engine does.
fn device(config: &RunConfig) -> Result<(Device, DType)> {
    let dtype = match config.engine.dtype {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    check_format(config)?;
    let index = config.engine.device_index;
    match config.engine.device {
        DeviceKind::Cpu => Ok((Device::Cpu, DType::F32)),
        DeviceKind::Cuda => Ok((gpu::open(index)?, dtype)),
    }
}

/// # Errors
/// If no model is named.
pub fn check_model(config: &RunConfig) -> Result<(), InputError> {
    if config.model.as_os_str().is_empty() {
        let problem = "the folder of a base model is needed, or its name on the Hugging Face hub";
        return Err(InputError::new("model", problem));
    }
    Ok(())
}

fn model_folder(config: &RunConfig) -> Result<PathBuf, InputError> {
    check_model(config)?;
    hub::folder(&config.model)
}

/// The trainer's device and base weights; the weights in main memory if they are on the device for a while only, and an
/// engine that shares them does not need them there.
///
/// The one place that opens the trainer's device: to candle two handles of one card are two devices.
fn weights(config: &RunConfig, sync: SyncMode, folder: &Path, decoder: &DecoderConfig) -> Result<(Device, Weights)> {
    let (device, dtype) = device(config)?;
    let is_shared = config.engine.resolved_kind(decoder) == EngineKind::Native;
    let rest = if sync == SyncMode::Alternate && !is_shared { &Device::Cpu } else { &device };
    let weights = Weights::load(folder, decoder, dtype, rest)?;
    Ok((device, weights))
}

/// What of a card the engine gets beside the trainer.
fn share(config: &RunConfig, decoder: &DecoderConfig, prompt_tokens: usize) -> Result<Share, InputError> {
    match (config.engine.device, budget::known_card(config)) {
        (DeviceKind::Cuda, Some(card)) => budget::resolve(config, decoder, prompt_tokens, card),
        // Without a card the weights cannot be loaded either, which is then said.
        _ => Ok(Share::unchecked(config, decoder, prompt_tokens)),
    }
}

/// A base model, and the configuration that says how it samples and is trained. Copies share the weights.
#[derive(Clone)]
pub struct Base {
    pub config: RunConfig,
    /// The folder that `config.model` stands for.
    pub folder: PathBuf,
    pub decoder: DecoderConfig,
    pub weights: Weights,
    pub share: Share,
    device: Device,
}

impl Base {
    /// For benchmarks: without tokenizer and rows, and with the base weights on the device whatever `engine.sync` says.
    ///
    /// # Errors
    /// A missing or wrong model.
    pub fn load(config: RunConfig) -> Result<Self> {
        let folder = model_folder(&config)?;
        let decoder = DecoderConfig::load(&folder)?;
        let prompt_tokens = config.bench.prompt_tokens.iter().copied().max().unwrap_or(0);
        let share = Share::unchecked(&config, &decoder, prompt_tokens);
        let (device, weights) = weights(&config, SyncMode::SideBySide, &folder, &decoder)?;
        Ok(Self { config, folder, decoder, weights, share, device })
    }

    /// A trainer with a fresh adapter.
    pub fn trainer(&self) -> Result<Trainer> {
        let settings = TrainerSettings {
            loss: self.config.loss.clone(),
            optim: self.config.optim.clone(),
            trainer: self.config.trainer.clone(),
            updates_per_step: self.config.updates_per_step(),
            total_updates: self.config.max_steps * self.config.updates_per_step(),
            temperature: f64::from(self.config.engine.temperature),
            max_new_tokens: self.config.engine.max_new_tokens,
        };
        let (device, decoder, weights) = (self.device.clone(), self.decoder.clone(), self.weights.clone());
        Ok(Trainer::new(device, decoder, weights, self.lora_config(), settings, self.config.seed)?)
    }

    fn lora_config(&self) -> Arc<LoraConfig> {
        let lora = &self.config.lora;
        let base = self.config.model.display().to_string();
        Arc::new(LoraConfig::new(lora.rank, lora.alpha, lora.target_modules.clone(), base))
    }
}

/// Something to do with whichever engine the configuration names.
pub trait WithEngine {
    type Output;

    fn call<E: Engine>(self, engine: Arc<E>) -> impl Future<Output = Result<Self::Output>>;
}

/// Starts the engine with `adapter` as the policy of step 0 and hands it on.
///
/// # Errors
/// If the engine is not built in or cannot load the model; what `then` returns.
pub async fn with_engine<W: WithEngine>(base: Base, adapter: Adapter, then: W) -> Result<W::Output> {
    match base.config.engine.resolved_kind(&base.decoder) {
        EngineKind::Mistralrs => with_mistral(&base, adapter, then).await,
        EngineKind::Native | EngineKind::Auto => then.call(Arc::new(native(base, adapter)?)).await,
    }
}

/// What the native engine computes in on this CPU.
pub fn native_precision(config: &RunConfig) -> Precision {
    native_settings(config, config.engine.cache_mb).computed()
}

/// What the engine that will run really computes in.
pub fn engine_precision(config: &RunConfig, decoder: &DecoderConfig) -> Precision {
    match (config.engine.resolved_kind(decoder), config.engine.device) {
        (EngineKind::Native | EngineKind::Auto, DeviceKind::Cpu) => native_precision(config),
        _ => config.engine.dtype,
    }
}

fn native_settings(config: &RunConfig, cache_mb: usize) -> NativeSettings {
    NativeSettings {
        max_sequences: config.engine.max_sequences,
        cache_bytes: cache_mb.saturating_mul(1 << 20),
        threads: 0,
        precision: config.engine.dtype,
    }
}

/// The native engine, where the trainer's weights are.
fn native(Base { config, decoder, weights, share, .. }: Base, adapter: Adapter) -> Result<Native> {
    let cache_mb = match config.engine.device {
        DeviceKind::Cpu => config.engine.cache_mb,
        DeviceKind::Cuda => share.cache_mb,
    };
    let settings = native_settings(&config, cache_mb);
    if engine_precision(&config, &decoder) != config.engine.dtype {
        tracing::warn!("this CPU has no AVX-512 BF16: the engine computes in f32, on the trainer's own weights");
    }
    Ok(Native::start(decoder, weights, settings, adapter)?)
}

#[cfg(feature = "mistralrs")]
async fn with_mistral<W: WithEngine>(base: &Base, adapter: Adapter, then: W) -> Result<W::Output> {
    let config = &base.config;
    use engine::mistral::{Cache, Device, MistralRs, MistralSettings, Swap};
    let EngineConfig { device_index, max_sequences, block_size, cache_dtype, .. } = config.engine;
    let device = match config.engine.device {
        DeviceKind::Cpu => Device::Cpu { replicas: replicas(base) },
        DeviceKind::Cuda => {
            let cache = Cache { mb: base.share.cache_mb, block_size, format: cache_dtype };
            Device::Gpu { index: device_index, max_sequences, cache }
        }
    };
    let swap = match base.share.sync {
        SyncMode::Auto | SyncMode::SideBySide => Swap::SideBySide,
        SyncMode::Reload | SyncMode::Alternate => Swap::Reload,
    };
    let (precision, quantization) = (config.engine.dtype, config.engine.quantization);
    let settings = MistralSettings { device, precision, quantization, swap };
    let engine = MistralRs::load(&base.folder, settings, adapter).await?;
    then.call(Arc::new(engine)).await
}

/// Copies of the model on a CPU: as many as cores where its matrix products are too small to be split over them.
#[cfg(feature = "mistralrs")]
fn replicas(base: &Base) -> usize {
    const SMALL: usize = 20_000_000;
    match base.config.engine.replicas {
        0 if base.decoder.parameters() < SMALL => std::thread::available_parallelism().map_or(1, |n| n.get()),
        0 => 1,
        replicas => replicas,
    }
}

#[cfg(not(feature = "mistralrs"))]
async fn with_mistral<W: WithEngine>(_: &Base, _: Adapter, _: W) -> Result<W::Output> {
    let problem = "\"mistralrs\" is not built in; build with the default features";
    Err(InputError::new("engine.kind", problem).into())
}
