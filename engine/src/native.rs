//! Our own engine: continuous batching over a paged cache, with an adapter that is exchanged between two steps.
//!
//! - `native/scheduler.rs` what runs when · `native/cache.rs` blocks and shared prefixes · `native/live_adapter.rs` the adapter
//! - `native/compute.rs` what a scheduler asks of a model · `native/cpu.rs` one on a CPU, by our own kernels
//! - `native/device.rs` one on any device, by candle's operators and, with CUDA, PagedAttention's kernels
//!
//! One thread owns the scheduler and everything in it; callers send it commands. The base weights are the caller's
//! own tensors, not a copy (on a CPU in bf16, a copy of half their size). A publish waits for the step that runs and no longer:
//! completions that are under way go on under the new policy, over the keys and values that the old one left (unless they
//! are preempted and computed again), and name both.

mod cache;
mod compute;
mod cpu;
mod device;
mod live_adapter;
mod scheduler;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Device;
use tokio::sync::oneshot;

use crate::decoder::{DecoderConfig, Weights};
use crate::kernels::LANES;
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Precision, Request};
use cache::{Layout, Store};
use compute::Compute;
use device::{DeviceModel, Slots};
use live_adapter::LiveAdapter;
use scheduler::{Policy, Reply, Scheduler};

/// How much runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeSettings {
    /// Sequences that decode together.
    pub max_sequences: usize,
    /// Bytes of the key-value cache. In main memory it grows where the longest request does not fit (see [`cache_bytes`]);
    /// on a device all of it is taken at once, and such a request fails.
    pub cache_bytes: usize,
    /// Threads that compute on a CPU; 0: one a core.
    pub threads: usize,
    /// What products are computed in on a CPU. On a device it is the weights' own format.
    pub precision: Precision,
}

impl NativeSettings {
    /// What products really are computed in on this CPU: f32 where it has no instructions for bf16.
    pub fn computed(&self) -> Precision {
        if cpu::has_bf16() { self.precision } else { Precision::F32 }
    }
}

/// Whether this CPU has the instructions of the bf16 kernels.
pub use cpu::has_bf16;

/// Most tokens of prompts that are computed in a step on a device, beside those that decode.
pub const DEVICE_PREFILL_TOKENS: usize = DeviceModel::PREFILL_TOKENS;

/// Most logits that stand in memory at a time on a device, there once as they come and six times in f32.
pub const DEVICE_LOGITS: usize = device::LOGITS;

/// The least memory of a key-value cache, in bytes, for requests of at most `tokens`, prompt and completion together.
pub fn cache_bytes(config: &DecoderConfig, tokens: usize) -> usize {
    Layout::blocks_of_request(tokens) * Layout::of(config).block_bytes()
}

/// The handle; dropping it ends the thread.
pub struct Native {
    /// `None` only while dropping.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    config: DecoderConfig,
    device: Device,
    /// Whether the cache's memory can be given back.
    suspends: bool,
    max_sequences: usize,
    step_times: Arc<Mutex<VecDeque<Duration>>>,
}

/// So many step times are kept.
const STEP_TIMES: usize = 4096;

enum Command {
    /// With how many tokens it may draw.
    Generate(Request, usize, Reply),
    Publish(Policy, Published),
    Suspend(oneshot::Sender<()>),
}

type Published = oneshot::Sender<Result<PolicyVersion, EngineError>>;

impl Native {
    /// Whether the CPU's kernels fit the model: the width of a head must be a multiple of [`LANES`].
    pub fn supports(config: &DecoderConfig) -> bool {
        config.head_dim.is_multiple_of(LANES)
    }

    /// Starts the engine where `weights` are, with `adapter` as the policy of step 0.
    ///
    /// # Errors
    /// [`EngineError::Model`] if weights in main memory are not f32, [`EngineError::Adapter`] if the adapter does not fit,
    /// [`EngineError::WrongAdapter`] if its bytes are not those of its hash, [`EngineError::Generate`] if the device has no
    /// room for the cache.
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
        let split = cpu::Model::best_split(&config);
        let model = cpu::Model::new(config.clone(), weights, threads, split, settings.computed())?;
        let layout = Layout::of(&config);
        let blocks = settings.cache_bytes / layout.block_bytes();
        Self::run(config, Device::Cpu, settings.max_sequences, adapter, |policy| {
            Scheduler::new(model, policy, settings.max_sequences, layout, blocks)
        })
    }

    /// The same, computed as on any device, also where there is a faster way.
    ///
    /// # Errors
    /// As [`Native::start`]; the weights may have any format that the device multiplies.
    pub fn start_on_operators(
        config: DecoderConfig,
        weights: Weights,
        settings: NativeSettings,
        adapter: Adapter,
    ) -> Result<Self, EngineError> {
        let device = weights.norm.device().clone();
        let block_bytes = weights.norm.dtype().size_in_bytes() * Layout::of(&config).block_len();
        let blocks = settings.cache_bytes / block_bytes;
        let model = DeviceModel::new(config.clone(), weights, blocks)?;
        Self::run(config, device, settings.max_sequences, adapter, |policy| {
            Scheduler::new(model, policy, settings.max_sequences, Slots::default(), blocks)
        })
    }

    /// Starts the thread.
    fn run<C: Compute>(
        config: DecoderConfig,
        device: Device,
        max_sequences: usize,
        adapter: Adapter,
        scheduler: impl FnOnce(Policy) -> Scheduler<C>,
    ) -> Result<Self, EngineError> {
        let scheduler = scheduler(policy(0, &adapter, &config, &device)?);
        let (commands, receiver) = mpsc::channel();
        let step_times = Arc::new(Mutex::new(VecDeque::new()));
        let times = Arc::clone(&step_times);
        let thread = std::thread::Builder::new().name("native-engine".into());
        let here = device.clone();
        let thread = thread.spawn(move || {
            // Makes a card's context this thread's: memory that is freed before anything is computed needs it too. What is
            // wrong with the card the first pass says.
            let _ = here.synchronize();
            serve(scheduler, &receiver, &times);
        });
        let thread = thread.map_err(|e| EngineError::Generate(format!("no thread for the engine: {e}")))?;
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

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.as_ref().and_then(|commands| commands.send(command).ok()).ok_or(EngineError::Stopped)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and its callers got `Stopped`.
            let _ = thread.join();
        }
    }
}

/// The thread: takes commands between steps, and sleeps when there is nothing to do. A caller that has gone leaves what
/// it asked for in place.
fn serve<C: Compute>(
    mut scheduler: Scheduler<C>,
    commands: &mpsc::Receiver<Command>,
    times: &Mutex<VecDeque<Duration>>,
) {
    loop {
        let command =
            if scheduler.is_idle() { commands.recv().map_err(mpsc::TryRecvError::from) } else { commands.try_recv() };
        match command {
            Ok(Command::Generate(request, room, reply)) => scheduler.submit(request, room, reply),
            Ok(Command::Publish(policy, reply)) => {
                let _ = reply.send(Ok(scheduler.publish(policy)));
            }
            Ok(Command::Suspend(reply)) => {
                scheduler.suspend();
                let _ = reply.send(());
                if wait_for_policy(&mut scheduler, commands).is_none() {
                    return;
                }
            }
            Err(mpsc::TryRecvError::Empty) => {
                let since = Instant::now();
                scheduler.step();
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                times.truncate(STEP_TIMES - 1);
                times.push_front(since.elapsed());
            }
            Err(mpsc::TryRecvError::Disconnected) => return,
        }
    }
}

/// While the scheduler is suspended: requests wait, until a policy is published for which there is room. `None` when
/// everybody has gone.
fn wait_for_policy<C: Compute>(scheduler: &mut Scheduler<C>, commands: &mpsc::Receiver<Command>) -> Option<()> {
    let mut waiting = Vec::new();
    loop {
        match commands.recv().ok()? {
            Command::Generate(request, room, reply) => waiting.push((request, room, reply)),
            Command::Suspend(reply) => drop(reply.send(())),
            Command::Publish(policy, reply) => match scheduler.resume() {
                Ok(()) => {
                    let _ = reply.send(Ok(scheduler.publish(policy)));
                    break;
                }
                Err(error) => drop(reply.send(Err(error.into()))),
            },
        }
    }
    waiting.into_iter().for_each(|(request, room, reply)| scheduler.submit(request, room, reply));
    Some(())
}

/// What is loaded is named by its own bytes, whatever the caller says of them.
fn policy(step: u64, adapter: &Adapter, config: &DecoderConfig, device: &Device) -> Result<Policy, EngineError> {
    let version = PolicyVersion { step, adapter: adapter.verify()? };
    Ok(Policy { version, adapter: LiveAdapter::new(adapter, config, device)? })
}

impl Engine for Native {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        let room = request.room(self.config.max_position_embeddings)?;
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= self.config.vocab_size) {
            let problem = format!("prompt token {id} is not in the model's vocabulary of {}", self.config.vocab_size);
            return Err(EngineError::Generate(problem));
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Generate(request, room, reply))?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let (config, device) = (self.config.clone(), self.device.clone());
        let built = tokio::task::spawn_blocking(move || policy(step, &adapter, &config, &device)).await;
        let (reply, published) = oneshot::channel();
        self.send(Command::Publish(built.map_err(|_| EngineError::Stopped)??, reply))?;
        published.await.map_err(|_| EngineError::Stopped)?
    }

    async fn suspend(&self) -> Result<(), EngineError> {
        if !self.suspends {
            return Ok(());
        }
        let (reply, suspended) = oneshot::channel();
        self.send(Command::Suspend(reply))?;
        suspended.await.map_err(|_| EngineError::Stopped)
    }

    /// Enough to fill the batch, and one to wait.
    fn concurrency(&self, group_size: usize) -> usize {
        self.max_sequences.div_ceil(group_size.max(1)) + 1
    }

    fn take_step_times(&self) -> Vec<Duration> {
        let mut times = self.step_times.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *times).into_iter().rev().collect()
    }
}
