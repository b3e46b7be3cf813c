//! Our own engine: continuous batching over a paged cache, with an adapter that is exchanged between two steps.
//!
//! - `batching/` what runs when · `cache/` cache blocks and shared prefixes · `live_adapter.rs` the adapter
//! - `compute.rs` what batching needs from a model · `cpu/` a model on a CPU, by our own kernels
//! - `device/` a model on any device, by candle's operators and, with CUDA, PagedAttention's kernels
//! - `serve.rs` the engine's thread
//!
//! One thread owns the batcher; callers send it commands. The base weights are the caller's own tensors, not a copy (on
//! a CPU in bf16 there is a copy of half their size). A publish waits for the current step only. Completions that are
//! running continue under the new policy with the keys and values that the old one wrote (a preempted one is computed
//! again), and name both.

mod batching;
mod cache;
mod compute;
mod cpu;
mod device;
mod live_adapter;
mod serve;

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use candle_core::Device;
use tokio::sync::oneshot;

use crate::decoder::{DecoderConfig, Weights};
use crate::kernels::LANES;
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Precision, Request, threads};
use batching::{ContinuousBatcher, LivePolicy, Submission};
pub use batching::{DrawnToken, TokenSink};
pub use cache::BLOCK_TOKENS;
use cache::{BlockLayout, BlockStore, blocks_of_request};
use compute::Compute;
use device::{DeviceBlocks, DeviceModel};
use live_adapter::LiveAdapter;
use serve::{EngineCommand, StepTimeLog, serve};

/// The engine's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeSettings {
    /// Sequences that decode together.
    pub max_sequences: usize,
    /// Bytes of the key-value cache. In main memory it grows if the longest request does not fit (see [`cache_bytes`]).
    /// On a device it is allocated at the start, and a request that does not fit fails.
    pub cache_bytes: usize,
    /// Threads that compute on a CPU; 0: one per core.
    pub threads: usize,
    /// The number format of products on a CPU. On a device it is the weights' format.
    pub precision: Precision,
}

impl NativeSettings {
    /// The number format of products on this CPU: f32 if it has no instructions for bf16.
    pub fn computed(&self) -> Precision {
        if cpu::has_bf16() { self.precision } else { Precision::F32 }
    }
}

/// Whether this CPU has the instructions of the bf16 kernels.
pub use cpu::has_bf16;

/// Prompt tokens that a step on a device computes at most, in addition to the sequences that decode.
pub const DEVICE_PREFILL_TOKENS: usize = DeviceModel::PREFILL_TOKENS;

/// The most logits that are in a device's memory at once: one copy in the model's format and six in f32.
pub const DEVICE_LOGITS: usize = device::LOGITS;

/// The least memory of a key-value cache, in bytes, for requests of at most `tokens`, prompt and completion together.
pub fn cache_bytes(config: &DecoderConfig, tokens: usize) -> usize {
    blocks_of_request(tokens) * BlockLayout::of(config).block_bytes()
}

/// The handle of the engine's thread; dropping it ends the thread.
pub struct Native {
    /// `None` only while dropping.
    commands: Option<mpsc::Sender<EngineCommand>>,
    thread: Option<JoinHandle<()>>,
    config: DecoderConfig,
    device: Device,
    /// Whether the cache's memory can be freed.
    suspends: bool,
    max_sequences: usize,
    step_times: Arc<StepTimeLog>,
}

impl Native {
    /// Whether the CPU kernels can compute the model: the width of a head must be a multiple of [`LANES`].
    pub fn supports(config: &DecoderConfig) -> bool {
        config.head_dim.is_multiple_of(LANES)
    }

    /// Starts the engine on the device that holds `weights`, with `adapter` as the policy of step 0.
    ///
    /// # Errors
    /// [`EngineError::Model`] if weights in main memory are not f32, [`EngineError::Adapter`] if the adapter does not
    /// fit,
    /// [`EngineError::WrongAdapter`] if its hash is not that of its bytes, [`EngineError::Start`] if a thread does not
    /// start or the device has no room for the cache.
    pub fn start(
        config: DecoderConfig,
        weights: Weights,
        settings: NativeSettings,
        adapter: Adapter,
    ) -> Result<Self, EngineError> {
        if !weights.norm.device().is_cpu() {
            return Self::start_on_operators(config, weights, settings, adapter);
        }
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            threads => threads,
        };
        let split = cpu::CpuModel::best_split(&config);
        let model = cpu::CpuModel::new(config.clone(), weights, threads, split, settings.computed())?;
        let layout = BlockLayout::of(&config);
        let blocks = settings.cache_bytes / layout.block_bytes();
        Self::run(config, Device::Cpu, settings.max_sequences, adapter, |policy| {
            ContinuousBatcher::new(model, policy, settings.max_sequences, layout, blocks)
        })
    }

    /// Starts the engine on the operators of any device, even if there is a faster way.
    ///
    /// # Errors
    /// As [`Native::start`]; the weights may have any number format that the device can multiply.
    pub fn start_on_operators(
        config: DecoderConfig,
        weights: Weights,
        settings: NativeSettings,
        adapter: Adapter,
    ) -> Result<Self, EngineError> {
        let device = weights.norm.device().clone();
        let block_bytes = weights.norm.dtype().size_in_bytes() * BlockLayout::of(&config).block_len();
        let blocks = settings.cache_bytes / block_bytes;
        let model =
            DeviceModel::new(config.clone(), weights, blocks).map_err(|error| EngineError::from(error).at_start())?;
        Self::run(config, device, settings.max_sequences, adapter, |policy| {
            ContinuousBatcher::new(model, policy, settings.max_sequences, DeviceBlocks::default(), blocks)
        })
    }

    /// Starts the thread.
    fn run<C: Compute>(
        config: DecoderConfig,
        device: Device,
        max_sequences: usize,
        adapter: Adapter,
        batcher: impl FnOnce(LivePolicy) -> ContinuousBatcher<C>,
    ) -> Result<Self, EngineError> {
        let batcher = batcher(policy(0, &adapter, &config, &device).map_err(EngineError::at_start)?);
        let (commands, receiver) = mpsc::channel();
        let step_times = Arc::new(StepTimeLog::default());
        let times = Arc::clone(&step_times);
        let thread = std::thread::Builder::new().name("native-engine".into());
        let here = device.clone();
        let thread = thread.spawn(move || {
            // Binds a card's context to this thread: freeing memory needs it, even before anything is computed. If the
            // card is broken, the first pass reports it.
            let _ = here.synchronize();
            serve(batcher, &receiver, &times);
        });
        let thread = thread.map_err(|e| EngineError::Start(format!("its thread did not start: {e}")))?;
        Ok(Self {
            commands: Some(commands),
            thread: Some(thread),
            config,
            device,
            suspends: !C::Store::GROWS,
            max_sequences,
            step_times,
        })
    }

    /// Whether the thread that computes still runs: it ends only by a panic.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// A policy for [`Native::generate_with`], which [`Engine::publish`] leaves alone.
    ///
    /// # Errors
    /// As [`Engine::publish`].
    pub async fn policy(&self, step: u64, adapter: Adapter) -> Result<Policy, EngineError> {
        Ok(Policy(Arc::new(self.build(step, adapter).await?)))
    }

    /// As [`Engine::generate`], under `policy` from the first token to the last (`None`: the engine's own), and with
    /// each token sent to `tokens` as soon as it is drawn.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub async fn generate_with(
        &self,
        request: Request,
        policy: Option<&Policy>,
        tokens: Option<TokenSink>,
    ) -> Result<Vec<Completion>, EngineError> {
        let room = request.room(self.config.max_position_embeddings)?;
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= self.config.vocab_size) {
            let problem = format!("prompt token {id} is not in the model's vocabulary of {}", self.config.vocab_size);
            return Err(EngineError::Generate(problem));
        }
        let policy = policy.map(|policy| Arc::clone(&policy.0));
        let (reply, answer) = oneshot::channel();
        self.send(EngineCommand::Generate(Submission { request, room, policy, tokens, reply }))?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    async fn build(&self, step: u64, adapter: Adapter) -> Result<LivePolicy, EngineError> {
        let (config, device) = (self.config.clone(), self.device.clone());
        let built = tokio::task::spawn_blocking(move || policy(step, &adapter, &config, &device)).await;
        built.map_err(|_| EngineError::Stopped)?
    }

    fn send(&self, command: EngineCommand) -> Result<(), EngineError> {
        self.commands.as_ref().and_then(|commands| commands.send(command).ok()).ok_or(EngineError::Stopped)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed, and its callers got `Stopped`.
            threads::join_within(thread, threads::LAST_WORK);
        }
    }
}

/// A policy that requests can name. Clones are the same policy; its memory is freed with the last of them.
#[derive(Clone)]
pub struct Policy(Arc<LivePolicy>);

impl Policy {
    pub fn version(&self) -> &PolicyVersion {
        &self.0.version
    }

    /// Whether there is another clone, such as that of a running request.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// The policy of an adapter, named by the hash of its bytes.
fn policy(step: u64, adapter: &Adapter, config: &DecoderConfig, device: &Device) -> Result<LivePolicy, EngineError> {
    let version = PolicyVersion { step, adapter: adapter.verify()? };
    Ok(LivePolicy::new(version, LiveAdapter::new(adapter, config, device)?))
}

impl Engine for Native {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        self.generate_with(request, None, None).await
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let policy = self.build(step, adapter).await?;
        let (reply, published) = oneshot::channel();
        self.send(EngineCommand::Publish(policy, reply))?;
        published.await.map_err(|_| EngineError::Stopped)?
    }

    async fn suspend(&self) -> Result<(), EngineError> {
        if !self.suspends {
            return Ok(());
        }
        let (reply, suspended) = oneshot::channel();
        self.send(EngineCommand::Suspend(reply))?;
        suspended.await.map_err(|_| EngineError::Stopped)
    }

    /// Enough to fill the batch, and one that waits.
    fn concurrency(&self, group_size: usize) -> usize {
        self.max_sequences.div_ceil(group_size.max(1)) + 1
    }

    fn take_step_times(&self) -> Vec<Duration> {
        self.step_times.take()
    }

    fn steps(&self) -> u64 {
        self.step_times.count()
    }
}
