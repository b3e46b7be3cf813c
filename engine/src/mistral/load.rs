//! Builds a model with an adapter merged into its weights.
//!
//! mistral.rs takes in-memory adapters from a thread-local list while it builds. So each build has its own OS thread,
//! and nothing leaks from one publish to the next. The build needs a tokio runtime only to be awaited; the model makes
//! its own thread and runtime, and outlives both.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use candle_core::{DType, Tensor};
use mistralrs::core::{DeviceMapSetting, MistralRsBuilder, NormalLoaderBuilder, NormalSpecificConfig};
use mistralrs_quant::{LoraAdapter, ShardedSafeTensors};
use serde_json::Value;
use tokio::sync::oneshot;

use super::messages::{first_line, panic_message};
use super::policy::{LoadedPolicy, Replica, SharedPipeline};
use super::settings::{Device, MistralSettings};
use super::{check, options};
use crate::decoder::{DecoderConfig, weight_files};
use crate::json;
use crate::{Adapter, EngineError, PolicyVersion, Precision, Request};

/// What all builds have in common.
pub struct Loader {
    pub settings: MistralSettings,
    dir: PathBuf,
    weights: Vec<PathBuf>,
    context: check::Context,
    /// One handle for all builds: candle refuses to add tensors of two handles, even of the same card.
    device: candle_core::Device,
}

impl Loader {
    /// Checks the settings and the model's configuration, and that every file exists. Loads nothing.
    pub fn open(dir: &Path, settings: MistralSettings) -> Result<Self, EngineError> {
        check::check_device(settings).map_err(|problem| model_error(dir, problem))?;
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

    /// Refuses a request that a sliding window would cut off.
    pub fn check_length(&self, request: &Request) -> Result<(), EngineError> {
        let tokens = request.prompt.len().saturating_add(request.sampling.max_new_tokens);
        self.context.check(tokens).map_err(|problem| model_error(&self.dir.join("config.json"), problem))
    }

    /// Builds a policy on a new thread; `version` names the adapter. If the future is dropped, the thread finishes and
    /// the policy is dropped.
    pub async fn load(self: &Arc<Self>, version: PolicyVersion, adapter: Adapter) -> Result<LoadedPolicy, EngineError> {
        let loader = Arc::clone(self);
        let (reply, policy) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("mistralrs-load".into())
            .spawn(move || drop(reply.send(loader.build(version, &adapter))))
            .map_err(|e| model_error(&self.dir, format!("the loading thread did not start: {e}")))?;
        match policy.await {
            Ok(policy) => policy,
            // The sender was dropped: mistral.rs panicked, as it does on files that it cannot read.
            Err(_) => Err(model_error(&self.dir, panic_message(thread.join().err()))),
        }
    }

    /// Runs on the loading thread.
    fn build(&self, version: PolicyVersion, adapter: &Adapter) -> Result<LoadedPolicy, EngineError> {
        self.apply(adapter)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| self.error(e))?;
        let mut replicas = Vec::new();
        let mut context = self.context.usable;
        for _ in 0..self.settings.replicas() {
            let (replica, longest) = runtime.block_on(self.build_replica())?;
            context = context.min(longest);
            replicas.push(replica);
        }
        Ok(LoadedPolicy { version, context, replicas })
    }

    /// Puts the adapter into this thread's list, where the build looks for it.
    fn apply(&self, adapter: &Adapter) -> Result<(), EngineError> {
        // mistral.rs silently ignores other tensors.
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
        // Matrices that will be quantized are loaded, merged and quantized in main memory, whatever the device.
        let device = match options::quantization(self.settings.quantization) {
            Some(_) => candle_core::Device::Cpu,
            None => self.device.clone(),
        };
        let weights = ShardedSafeTensors::wrap(Box::new(tensors), dtype, device);
        mistralrs_quant::push_applied_lora(LoraAdapter { config, weights });
        Ok(())
    }

    /// Loads the weights and starts the model's thread. Also returns the greatest length of a sequence.
    ///
    /// This is one level below `TextModelBuilder`, which takes no device, maps layers by free memory, and lists the
    /// folder through the hub's client. The prefix cache stays off: if exactly one token of a prompt is not in it,
    /// mistral.rs computes that token as if it did not attend to itself (`make_prompt_chunk` counts one too few). It
    /// gets neither template nor generation defaults, so the only end-of-sequence tokens that it knows are those of the
    /// request.
    async fn build_replica(&self) -> Result<(Replica, usize), EngineError> {
        let specific = NormalSpecificConfig::default();
        let id = self.dir.to_string_lossy().into_owned();
        let loader = NormalLoaderBuilder::new(specific, None, None, Some(id), false, None)
            .build(None)
            .map_err(|e| self.error(e))?;
        let (dtype, silent) = (options::model_dtype(self.settings.precision), true);
        let pipeline = loader
            .load_model_from_path(
                &options::paths(&self.dir, &self.weights),
                &dtype,
                &self.device,
                silent,
                DeviceMapSetting::dummy(),
                options::quantization(self.settings.quantization),
                options::paged_attention(self.settings.device).map_err(|e| self.error(e))?,
            )
            .map_err(|e| self.error(format!("{e:#}")))?;
        let (scheduler, wave) = {
            let pipeline = pipeline.lock().await;
            (options::scheduler(&self.settings, &*pipeline), options::wave(&self.settings, &*pipeline))
        };
        let pipeline: SharedPipeline = pipeline;
        let runner = MistralRsBuilder::new(Arc::clone(&pipeline), scheduler, false, None)
            .with_no_prefix_cache(true)
            .with_disable_eos_stop(true)
            .build()
            .await;
        let longest = runner.config(None).map_err(|e| self.error(e))?.max_seq_len;
        let longest = longest.ok_or_else(|| self.error("the model names no context length"))?;
        let longest = match &wave {
            Some(wave) => wave.longest().min(longest),
            None => check::usable_context(longest),
        };
        let requests = runner.get_sender(None).map_err(|e| self.error(e))?;
        Ok((Replica { requests, pipeline, wave, _runner: runner }, longest))
    }

    fn error(&self, problem: impl ToString) -> EngineError {
        model_error(&self.dir, first_line(&problem.to_string()))
    }
}

/// The context within which mistral.rs computes as the model's `config.json` says.
fn plain_context(dir: &Path) -> Result<check::Context, EngineError> {
    let (config, path) = (DecoderConfig::load(dir)?, dir.join("config.json"));
    let text = json::read_text(&path).map_err(|e| model_error(&path, e))?;
    let raw = Value::from(json::parse_object(&text).map_err(|e| model_error(&path, e))?);
    check::check(&config, &raw).map_err(|problem| model_error(&path, problem))?;
    Ok(check::Context::of(&config, &raw))
}

fn existing(dir: &Path, name: &str) -> Result<PathBuf, EngineError> {
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(model_error(&path, "no such file")) }
}

fn model_error(path: &Path, problem: impl ToString) -> EngineError {
    EngineError::Model { path: path.to_path_buf(), problem: problem.to_string() }
}
