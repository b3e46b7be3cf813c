//! Builds a model with an adapter merged into its weights.
//!
//! mistral.rs takes in-memory adapters from a thread-local list while it builds, so each build has an OS thread of
//! its own: nothing can leak from one publish into the next. The build needs a tokio runtime only to be awaited;
//! the model makes another thread and runtime for itself, and outlives both.

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use candle_core::{DType, Tensor};
use mistralrs::core::{
    AdapterPaths, DefaultSchedulerMethod, DeviceMapSetting, LocalModelPaths, MemoryGpuConfig, MistralRsBuilder,
    ModelDType, ModelPaths, NormalLoaderBuilder, NormalSpecificConfig, PagedAttentionConfig, PagedCacheType, Pipeline,
    SchedulerConfig,
};
use mistralrs_quant::{IsqType, LoraAdapter, ShardedSafeTensors};
use tokio::sync::oneshot;

use super::capture::first_line;
use super::check;
use super::wave::Wave;
use super::{Cache, Device, Memory, MistralSettings, Policy, Precision, Replica};
use crate::decoder::{DecoderConfig, weight_files};
use crate::{Adapter, CacheFormat, EngineError, PolicyVersion, Quantization};

/// What stays the same from one build to the next.
pub struct Loader {
    pub settings: MistralSettings,
    dir: PathBuf,
    weights: Vec<PathBuf>,
    /// How many tokens of context are computed as the trainer computes them.
    context: usize,
    /// One handle for all builds: candle refuses to add tensors of two handles, even of one card.
    device: candle_core::Device,
}

impl Loader {
    /// Checks the settings, the model's configuration, and that every file is there; loads nothing.
    pub fn open(dir: &Path, settings: MistralSettings) -> Result<Self, EngineError> {
        check_device(settings).map_err(|problem| model_error(dir, problem))?;
        for name in ["config.json", "tokenizer.json"] {
            existing(dir, name)?;
        }
        let weights = weight_files(dir)?;
        let context = plain_context(dir)?;
        let device = match settings.device {
            Device::Cpu { .. } => candle_core::Device::Cpu,
            Device::Gpu { index, .. } => candle_core::Device::new_cuda(index)
                .map_err(|e| model_error(dir, format!("CUDA device {index}: {e}")))?,
        };
        Ok(Self { settings, dir: dir.to_path_buf(), weights, context, device })
    }

    /// Builds a policy on a new thread; `version` names the adapter's bytes. Dropping the future lets the thread end and drops
    /// the policy.
    pub async fn load(self: &Arc<Self>, version: PolicyVersion, adapter: Adapter) -> Result<Policy, EngineError> {
        let loader = Arc::clone(self);
        let (reply, policy) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("mistralrs-load".into())
            .spawn(move || drop(reply.send(loader.build(version, &adapter))))
            .map_err(|e| model_error(&self.dir, format!("no thread to load it on: {e}")))?;
        match policy.await {
            Ok(policy) => policy,
            // The sender went without a word: mistral.rs panicked, as it does on files that it cannot read.
            Err(_) => Err(model_error(&self.dir, panic_message(thread.join().err()))),
        }
    }

    /// Everything that happens on the loading thread.
    fn build(&self, version: PolicyVersion, adapter: &Adapter) -> Result<Policy, EngineError> {
        self.apply(adapter)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| self.error(e))?;
        let mut replicas = Vec::new();
        let mut context = self.context;
        for _ in 0..self.settings.replicas() {
            let (replica, longest) = runtime.block_on(self.build_replica())?;
            context = context.min(longest);
            replicas.push(replica);
        }
        Ok(Policy { version, context, replicas })
    }

    /// Puts the adapter where the build on this thread looks for it.
    fn apply(&self, adapter: &Adapter) -> Result<(), EngineError> {
        // mistral.rs would ignore any other tensor silently.
        let tensors: HashMap<String, Tensor> = adapter.target_tensors()?.into_iter().collect();
        let dtype = match self.settings.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let config = mistralrs_quant::LoraConfig {
            rank: adapter.config.r,
            alpha: adapter.config.lora_alpha,
            target_modules: adapter.config.target_modules.iter().cloned().collect(),
        };
        mistralrs_quant::clear_applied_loras();
        // Matrices that are to be packed are loaded, merged and packed in main memory, whatever the device.
        let device = match self.quantization() {
            Some(_) => candle_core::Device::Cpu,
            None => self.device.clone(),
        };
        let weights = ShardedSafeTensors::wrap(Box::new(tensors), dtype, device);
        mistralrs_quant::push_applied_lora(LoraAdapter { config, weights });
        Ok(())
    }

    /// Loads the weights and starts the model's thread; also says how long a sequence may be.
    ///
    /// One level below `TextModelBuilder`, which takes no device, maps layers by free memory, and lists the folder
    /// through the hub's client. Its prefix cache stays off: a prompt of which exactly one token is not in it is computed as
    /// if that token did not see itself (`make_prompt_chunk` counts one too few). Neither template nor generation defaults are given, so mistral.rs knows no
    /// end-of-sequence token but those of the request.
    async fn build_replica(&self) -> Result<(Replica, usize), EngineError> {
        let specific = NormalSpecificConfig::default();
        let id = self.dir.to_string_lossy().into_owned();
        let loader = NormalLoaderBuilder::new(specific, None, None, Some(id), false, None)
            .build(None)
            .map_err(|e| self.error(e))?;
        let (dtype, silent) = (self.model_dtype(), true);
        let pipeline = loader
            .load_model_from_path(
                &self.paths(),
                &dtype,
                &self.device,
                silent,
                DeviceMapSetting::dummy(),
                self.quantization(),
                self.paged_attention()?,
            )
            .map_err(|e| self.error(format!("{e:#}")))?;
        let (scheduler, wave) = {
            let pipeline = pipeline.lock().await;
            (self.scheduler(&*pipeline), self.wave(&*pipeline))
        };
        let memory: Memory = pipeline;
        let runner = MistralRsBuilder::new(Arc::clone(&memory), scheduler, false, None)
            .with_no_prefix_cache(true)
            .with_disable_eos_stop(true)
            .build()
            .await;
        let longest = runner.config(None).map_err(|e| self.error(e))?.max_seq_len;
        let longest = longest.ok_or_else(|| self.error("the model names no context length"))?;
        let longest = match &wave {
            Some(wave) => wave.longest().min(longest),
            None => usable_context(longest),
        };
        let requests = runner.get_sender(None).map_err(|e| self.error(e))?;
        Ok((Replica { requests, memory, wave, _runner: runner }, longest))
    }

    fn paths(&self) -> Box<dyn ModelPaths> {
        Box::new(LocalModelPaths {
            tokenizer_filename: self.dir.join("tokenizer.json"),
            config_filename: self.dir.join("config.json"),
            template_filename: None,
            filenames: self.weights.clone(),
            adapter_paths: AdapterPaths::None,
            gen_conf: None,
            preprocessor_config: None,
            processor_config: None,
            chat_template_json_filename: None,
        })
    }

    fn model_dtype(&self) -> ModelDType {
        match self.settings.precision {
            Precision::F32 => ModelDType::F32,
            Precision::Bf16 => ModelDType::BF16,
        }
    }

    /// 0.8.1 packs a matrix while it loads, behind the merge of the adapter.
    fn quantization(&self) -> Option<IsqType> {
        match self.settings.quantization {
            Quantization::None => None,
            Quantization::Q8_0 => Some(IsqType::Q8_0),
            Quantization::Q6K => Some(IsqType::Q6K),
            Quantization::Q5K => Some(IsqType::Q5K),
            Quantization::Q4K => Some(IsqType::Q4K),
        }
    }

    /// PagedAttention exists on a GPU only. The cache has a fixed size: one that follows the free memory would leave none for
    /// the trainer, or for the model that a publish builds beside this one.
    fn paged_attention(&self) -> Result<Option<PagedAttentionConfig>, EngineError> {
        let Device::Gpu { cache: Cache { mb, block_size, format }, .. } = self.settings.device else { return Ok(None) };
        let format = match format {
            CacheFormat::Auto => PagedCacheType::Auto,
            CacheFormat::F8E4M3 => PagedCacheType::F8E4M3,
        };
        PagedAttentionConfig::new(Some(block_size), MemoryGpuConfig::MbAmount(mb), format)
            .map(Some)
            .map_err(|e| self.error(e))
    }

    fn scheduler(&self, pipeline: &dyn Pipeline) -> SchedulerConfig {
        let max_num_seqs = self.settings.max_sequences();
        match pipeline.get_metadata().cache_config.clone() {
            Some(config) => SchedulerConfig::PagedAttentionMeta { max_num_seqs, config },
            None => {
                let max_num_seqs = max_num_seqs.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
                SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(max_num_seqs) }
            }
        }
    }

    /// The way into a model with PagedAttention. One block of its cache is 0.8.1's own.
    fn wave(&self, pipeline: &dyn Pipeline) -> Option<Arc<Wave>> {
        let metadata = pipeline.get_metadata();
        let cache = metadata.cache_config.as_ref()?;
        let blocks = cache.num_gpu_blocks.saturating_sub(1);
        Some(Wave::new(self.settings.max_sequences(), blocks, cache.block_size))
    }

    fn error(&self, problem: impl ToString) -> EngineError {
        model_error(&self.dir, first_line(&problem.to_string()))
    }
}

fn check_device(settings: MistralSettings) -> Result<(), &'static str> {
    match (settings.device, settings.precision) {
        (Device::Cpu { .. }, Precision::Bf16) => {
            Err("bf16 needs a GPU: candle has no bf16 matrix product on the CPU; use f32")
        }
        // Its rotary embedding (`layers.rs`) goes by the feature, not by the tensor, for models without grouped heads.
        (Device::Cpu { .. }, _) if cfg!(feature = "cuda") => {
            Err("in a program with CUDA mistral.rs 0.8.1 does not compute on a CPU; build it without, or use the GPU")
        }
        // `make_causal_mask_matrix` leaves the mask to flash attention, which `run_attention` does not call for f32: a
        // prompt's tokens would see those behind them.
        (Device::Gpu { .. }, Precision::F32) if cfg!(feature = "flash-attn") => Err(
            "mistral.rs 0.8.1 with flash-attn computes f32 without a causal mask; use bf16, or build with cuda alone",
        ),
        _ => Ok(()),
    }
}

/// How much context mistral.rs computes as the model's `config.json` says it.
fn plain_context(dir: &Path) -> Result<usize, EngineError> {
    let (config, path) = (DecoderConfig::load(dir)?, dir.join("config.json"));
    let text = std::fs::read_to_string(&path).map_err(|e| model_error(&path, e))?;
    let raw = serde_json::from_str(&text).map_err(|e| model_error(&path, e))?;
    check::check(&config, &raw).map_err(|problem| model_error(&path, problem))?;
    Ok(check::context(&config, &raw))
}

/// How much of a context of `longest` tokens can be used on a CPU: 0.8.1 grows its cache by 512 positions and fails, with the
/// sequence, when that would be more than the model allows.
fn usable_context(longest: usize) -> usize {
    const GROWTH: usize = 512;
    if longest < GROWTH { longest } else { longest - longest % GROWTH }
}

fn existing(dir: &Path, name: &str) -> Result<PathBuf, EngineError> {
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(model_error(&path, "no such file")) }
}

fn model_error(path: &Path, problem: impl ToString) -> EngineError {
    EngineError::Model { path: path.to_path_buf(), problem: problem.to_string() }
}

fn panic_message(payload: Option<Box<dyn Any + Send>>) -> String {
    let text = payload
        .as_ref()
        .and_then(|p| p.downcast_ref::<String>().map(String::as_str).or_else(|| p.downcast_ref::<&str>().copied()));
    format!("mistral.rs panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::usable_context;

    #[test]
    fn a_context_is_used_up_to_a_whole_number_of_cache_growths() {
        assert_eq!([100, 511, 512, 768, 1024, 1500].map(usable_context), [100, 511, 512, 512, 1024, 1024]);
    }
}
