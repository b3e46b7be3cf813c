//! From a configuration to the things that run: model, tokenizer, rows, engine.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device};
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::{Adapter, Engine, LoraConfig, Sampling};

use crate::config::run::{DeviceKind, EngineKind, Precision, RunConfig};
use crate::dataset::{self, Dataset};
use crate::error::InputError;
use crate::eval::EvalSettings;
use crate::scheduler::SchedulerConfig;
use crate::tokenizer::ChatTokenizer;
use crate::train::trainer::{Trainer, TrainerSettings};

/// Everything that is read before a run starts; nothing of it changes later.
pub struct Setup {
    pub config: RunConfig,
    pub decoder: DecoderConfig,
    /// The base model: read once, shared by the trainer and an engine in this process.
    pub weights: Weights,
    pub tokenizer: Arc<ChatTokenizer>,
    pub train: Arc<Dataset>,
    pub test: Arc<Dataset>,
}

impl Setup {
    /// # Errors
    /// A missing or wrong model, tokenizer or row; test rows missing although evaluation is on.
    pub fn load(config: RunConfig) -> Result<Self> {
        if config.model.as_os_str().is_empty() {
            return Err(InputError::new("model", "the folder of a base model is needed").into());
        }
        let decoder = DecoderConfig::load(&config.model)?;
        let tokenizer = ChatTokenizer::load(&config.model, &decoder)?;
        let (train, test) = dataset::load_rows(&config)?;
        let context = decoder.max_position_embeddings;
        let train = Dataset::new(train, &tokenizer, context)?;
        let test = Dataset::new(test, &tokenizer, context)?;
        let untested = train.sources.iter().find(|s| !test.sources.iter().any(|t| t.name == s.name));
        if let (Some(source), true) = (untested, config.eval.interval > 0) {
            let problem = format!("distribution {} has no test rows; add some, or set eval.interval = 0", source.name);
            return Err(InputError::new("data", problem).into());
        }
        let (device, dtype) = device(&config)?;
        let weights = Weights::load(&config.model, &decoder, dtype, &device)?;
        Ok(Self { decoder, weights, tokenizer: tokenizer.into(), train: train.into(), test: test.into(), config })
    }

    /// How completions to train on are sampled.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.config.engine.temperature,
            max_new_tokens: self.config.engine.max_new_tokens,
            stop_tokens: self.tokenizer.stop_tokens.clone(),
        }
    }

    pub fn eval_settings(&self) -> EvalSettings {
        let sampling = Sampling { temperature: self.config.eval.temperature, ..self.sampling() };
        EvalSettings {
            sampling,
            samples: self.config.eval.samples,
            seed: engine::sampler::mix_seed(self.config.data.seed, 0xE7A1),
        }
    }

    pub fn scheduler_config(&self) -> SchedulerConfig {
        SchedulerConfig {
            batch_size: self.config.batch_size,
            max_off_policy_steps: self.config.pipeline.max_off_policy_steps,
            max_steps: self.config.max_steps,
            seed: self.config.seed,
            curriculum: self.config.curriculum.clone(),
        }
    }

    /// A trainer with a fresh adapter.
    pub fn trainer(&self) -> Result<Trainer> {
        let settings = TrainerSettings {
            loss: self.config.loss.clone(),
            optim: self.config.optim.clone(),
            temperature: f64::from(self.config.engine.temperature),
            max_new_tokens: self.config.engine.max_new_tokens,
        };
        Ok(Trainer::new(self.decoder.clone(), self.weights.clone(), self.lora_config(), settings, self.config.seed)?)
    }

    /// What an engine is started from.
    pub fn base(&self) -> Base {
        Base { config: self.config.clone(), decoder: self.decoder.clone(), weights: self.weights.clone() }
    }

    fn lora_config(&self) -> Arc<LoraConfig> {
        let lora = &self.config.lora;
        let base = self.config.model.display().to_string();
        Arc::new(LoraConfig::new(lora.rank, lora.alpha, lora.target_modules.clone(), base))
    }
}

/// The trainer's device and number format.
fn device(config: &RunConfig) -> Result<(Device, DType)> {
    let dtype = match config.engine.dtype {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    match config.engine.device {
        DeviceKind::Cpu if dtype == DType::BF16 => {
            let problem = "bf16 cannot be computed on a CPU by candle; use \"f32\", or engine.device = \"cuda\"";
            Err(InputError::new("engine.dtype", problem).into())
        }
        DeviceKind::Cpu => Ok((Device::Cpu, dtype)),
        DeviceKind::Cuda if cfg!(not(feature = "cuda")) => {
            let problem = "this program was built without GPU support; build it with --features cuda";
            Err(InputError::new("engine.device", problem).into())
        }
        DeviceKind::Cuda => {
            let device =
                Device::new_cuda(0).map_err(|e| InputError::new("engine.device", format!("no CUDA device: {e}")))?;
            Ok((device, dtype))
        }
    }
}

/// A base model, and the configuration that says which engine runs it.
pub struct Base {
    config: RunConfig,
    decoder: DecoderConfig,
    weights: Weights,
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
    match base.config.engine.resolved_kind() {
        EngineKind::Mistralrs => with_mistral(&base.config, adapter, then).await,
        EngineKind::Native | EngineKind::Auto => then.call(Arc::new(native(base, adapter)?)).await,
    }
}

fn native(Base { config, decoder, weights }: Base, adapter: Adapter) -> Result<Native> {
    if config.engine.device != DeviceKind::Cpu {
        let problem = "\"native\" runs on a CPU; with engine.device = \"cuda\" use \"mistralrs\" or \"auto\"";
        return Err(InputError::new("engine.kind", problem).into());
    }
    let settings = NativeSettings {
        max_sequences: config.engine.max_sequences,
        cache_bytes: config.engine.cache_mb.saturating_mul(1 << 20),
        threads: 0,
    };
    Ok(Native::start(decoder, weights, settings, adapter)?)
}

#[cfg(feature = "mistralrs")]
async fn with_mistral<W: WithEngine>(config: &RunConfig, adapter: Adapter, then: W) -> Result<W::Output> {
    use engine::mistral::{Device, MistralRs, MistralSettings, Precision as EnginePrecision};
    let device = match config.engine.device {
        DeviceKind::Cpu => Device::Cpu { replicas: replicas(config)? },
        DeviceKind::Cuda => {
            Device::Gpu { index: 0, max_sequences: config.engine.max_sequences, cache_mb: config.engine.cache_mb }
        }
    };
    let precision = match config.engine.dtype {
        Precision::F32 => EnginePrecision::F32,
        Precision::Bf16 => EnginePrecision::Bf16,
    };
    let engine = MistralRs::load(&config.model, MistralSettings { device, precision }, adapter).await?;
    then.call(Arc::new(engine)).await
}

/// Copies of the model on a CPU: as many as cores where its matrix products are too small to be split over them.
#[cfg(feature = "mistralrs")]
fn replicas(config: &RunConfig) -> Result<usize> {
    const SMALL: usize = 20_000_000;
    if config.engine.replicas > 0 {
        return Ok(config.engine.replicas);
    }
    let small = DecoderConfig::load(&config.model)?.parameters() < SMALL;
    Ok(if small { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { 1 })
}

#[cfg(not(feature = "mistralrs"))]
async fn with_mistral<W: WithEngine>(_: &RunConfig, _: Adapter, _: W) -> Result<W::Output> {
    let problem = "\"mistralrs\" is not built in; build with the default features";
    Err(InputError::new("engine.kind", problem).into())
}
