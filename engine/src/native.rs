//! Our own engine for CPUs: continuous batching over a paged cache, with an adapter that is exchanged between two steps.
//!
//! - `kernels.rs` the arithmetic · `native/bf16.rs` products in bf16 · `native/model.rs` a forward pass · `native/lora.rs` the adapter
//! - `native/cache.rs` blocks and shared prefixes · `native/scheduler.rs` what runs when
//!
//! One thread owns the scheduler and everything in it; callers send it commands. The base weights are the caller's
//! own tensors, not a copy (in bf16, a copy of half their size). A publish waits for the step that runs and no longer: completions that are under way go
//! on under the new policy, over the keys and values that the old one left (unless they are preempted and computed
//! again), and name both.

mod bf16;
mod cache;
mod lora;
mod model;
mod scheduler;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::decoder::{DecoderConfig, Weights};
use crate::kernels::LANES;
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Precision, Request};
use cache::Layout;
use lora::Lora;
use model::Model;
use scheduler::{Policy, Reply, Scheduler};

/// How much runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeSettings {
    /// Sequences that decode together.
    pub max_sequences: usize,
    /// Bytes of the key-value cache; it grows where the longest request does not fit (see [`cache_bytes`]).
    pub cache_bytes: usize,
    /// Threads that compute; 0: one a core.
    pub threads: usize,
    /// What products are computed in.
    pub precision: Precision,
}

impl NativeSettings {
    /// What products really are computed in: f32 where the CPU has no instructions for bf16.
    pub fn computed(&self) -> Precision {
        if bf16::is_supported() { self.precision } else { Precision::F32 }
    }
}

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
    max_sequences: usize,
    step_times: Arc<Mutex<VecDeque<Duration>>>,
}

/// So many step times are kept.
const STEP_TIMES: usize = 4096;

enum Command {
    /// With how many tokens it may draw.
    Generate(Request, usize, Reply),
    Publish(Policy, oneshot::Sender<PolicyVersion>),
}

impl Native {
    /// Whether the kernels fit the model: the width of a head must be a multiple of [`LANES`].
    pub fn supports(config: &DecoderConfig) -> bool {
        config.head_dim.is_multiple_of(LANES)
    }

    /// Starts the engine on `weights` with `adapter` as the policy of step 0.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the weights are not f32 in main memory, [`EngineError::Adapter`] if the adapter does not fit,
    /// [`EngineError::WrongAdapter`] if its bytes are not those of its hash.
    pub fn start(
        config: DecoderConfig,
        weights: Weights,
        settings: NativeSettings,
        adapter: Adapter,
    ) -> Result<Self, EngineError> {
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            threads => threads,
        };
        let policy = policy(0, &adapter, &config)?;
        let split = Model::best_split(&config);
        let model = Model::new(config.clone(), weights, threads, split, settings.computed())?;
        let scheduler = Scheduler::new(model, policy, settings.max_sequences, settings.cache_bytes);
        let (commands, receiver) = mpsc::channel();
        let step_times = Arc::new(Mutex::new(VecDeque::new()));
        let times = Arc::clone(&step_times);
        let thread = std::thread::Builder::new().name("native-engine".into());
        let thread = thread.spawn(move || serve(scheduler, &receiver, &times));
        let thread = thread.map_err(|e| EngineError::Generate(format!("no thread for the engine: {e}")))?;
        let max_sequences = settings.max_sequences;
        Ok(Self { commands: Some(commands), thread: Some(thread), config, max_sequences, step_times })
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

/// The thread: takes commands between steps, and sleeps when there is nothing to do.
fn serve(mut scheduler: Scheduler, commands: &mpsc::Receiver<Command>, times: &Mutex<VecDeque<Duration>>) {
    loop {
        let command =
            if scheduler.is_idle() { commands.recv().map_err(mpsc::TryRecvError::from) } else { commands.try_recv() };
        match command {
            Ok(Command::Generate(request, room, reply)) => scheduler.submit(request, room, reply),
            Ok(Command::Publish(policy, reply)) => {
                // A caller that has gone leaves the new policy in place.
                let _ = reply.send(scheduler.publish(policy));
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

/// What is loaded is named by its own bytes, whatever the caller says of them.
fn policy(step: u64, adapter: &Adapter, config: &DecoderConfig) -> Result<Policy, EngineError> {
    let version = PolicyVersion { step, adapter: adapter.verify()? };
    Ok(Policy { version, lora: Lora::new(adapter, config)? })
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
        let config = self.config.clone();
        let built = tokio::task::spawn_blocking(move || policy(step, &adapter, &config)).await;
        let (reply, published) = oneshot::channel();
        self.send(Command::Publish(built.map_err(|_| EngineError::Stopped)??, reply))?;
        published.await.map_err(|_| EngineError::Stopped)
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
