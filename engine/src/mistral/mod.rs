//! mistral.rs in process: the only module that imports it.
//!
//! - `mistral/check.rs` refuses models that mistral.rs would compute otherwise than the trainer
//! - `mistral/load.rs` builds a model with an adapter merged into it, on a thread of its own
//! - `mistral/sequence.rs` is one completion on its way into a model
//! - `mistral/capture.rs` draws the tokens of one sequence and carries its answer out
//! - `mistral/slots.rs` gives out the places that sequences may take on a CPU, `mistral/wave.rs` on a GPU
//!
//! mistral.rs 0.8.1 cannot swap an adapter, so a publish builds another model ([`Swap`] says when the old one goes).
//! Invariants:
//! - a request is answered by the policy that was current when it arrived, whatever is published meanwhile;
//! - a model that no request and no policy holds ends its thread and frees its memory. 0.8.1 leaks one sleeping
//!   thread for each model (its interval logger never ends): some kilobytes a publish;
//! - nothing here reaches for the network: every file is named by its local path.
//!
//! When a mistral.rs with exchangeable adapters reaches crates.io, only `load.rs` changes.

mod capture;
mod check;
mod load;
mod place;
mod sequence;
mod slots;
mod wave;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mistralrs::core::{Pipeline, Request as CoreRequest};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{Adapter, CacheFormat, Completion, Engine, EngineError, PolicyVersion, Precision, Quantization, Request};
use capture::{Answer, Caller};
use load::Loader;
use place::Place;
use sequence::Sequence;
use slots::Slots;
use wave::Wave;

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// One sequence at a time in each of `replicas` copies of the model: the only correct way in 0.8.1.
    ///
    /// A small model's products are too small to be split over threads, so as many copies as cores are as many
    /// times faster; a large one uses all cores by itself.
    Cpu {
        /// Copies of the model, each with its own weights and thread. At least one.
        replicas: usize,
    },
    /// A CUDA device, with PagedAttention and up to `max_sequences` sequences together.
    Gpu {
        /// Which device, from 0.
        index: usize,
        /// How many sequences are decoded together.
        max_sequences: usize,
        cache: Cache,
    },
}

/// The paged key-value cache on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Its memory in MiB, taken when a model is loaded.
    pub mb: usize,
    /// Tokens in a block: 8, 16 or 32.
    pub block_size: usize,
    pub format: CacheFormat,
}

/// When a publish frees the old model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The new model is built while the old one answers, and then takes its place: both are in memory for a while.
    SideBySide,
    /// The old model answers what runs and is freed, then the new one is built: requests wait, but one model fits.
    Reload,
}

/// How a model is loaded; the same for every publish of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MistralSettings {
    pub device: Device,
    pub precision: Precision,
    pub quantization: Quantization,
    pub swap: Swap,
}

impl MistralSettings {
    /// On a CPU in f32, each model built beside the one before.
    pub fn cpu(replicas: usize) -> Self {
        let device = Device::Cpu { replicas };
        Self { device, precision: Precision::F32, quantization: Quantization::None, swap: Swap::SideBySide }
    }

    /// How many copies of the model are loaded.
    fn replicas(&self) -> usize {
        match self.device {
            Device::Cpu { replicas } => replicas.max(1),
            Device::Gpu { .. } => 1,
        }
    }

    /// How many sequences may be in a model at a time.
    ///
    /// On the CPU exactly one: 0.8.1's single-query attention (`flash_attn_cpu_single_q`) shares one scratch area
    /// between the sequences of a batch, so all but one get wrong logits, and its own limit
    /// (`max_num_seqs` 1) does not keep requests apart. `tests/engines.rs` compares concurrent sequences with our
    /// own forward and fails when this is lifted too early.
    fn max_sequences(&self) -> usize {
        match self.device {
            Device::Cpu { .. } => 1,
            Device::Gpu { max_sequences, .. } => max_sequences.max(1),
        }
    }
}

/// The engine: the policy that answers now, and what is needed to build the next one.
pub struct MistralRs {
    loader: Arc<Loader>,
    /// `None` while the engine is suspended.
    current: watch::Sender<Option<Arc<Policy>>>,
    /// Publishes and suspensions are made one after the other.
    turn: Mutex<()>,
    slots: Arc<Slots>,
}

/// One loaded policy. Dropping the last reference ends its models' threads.
struct Policy {
    version: PolicyVersion,
    /// Prompt and completion together are at most this long.
    context: usize,
    replicas: Vec<Replica>,
}

/// Weights and cache of one copy of the model. mistral.rs's threads hold them too.
type Memory = Arc<Mutex<dyn Pipeline>>;

/// One copy of the model.
struct Replica {
    requests: mpsc::Sender<CoreRequest>,
    memory: Memory,
    /// The way in on a GPU; on a CPU `MistralRs::slots` is.
    wave: Option<Arc<Wave>>,
    /// Ends the model's thread when dropped. `requests` is taken from it once, because asking it again would
    /// restart a thread that died, with a model that nobody checked.
    _runner: Arc<mistralrs::core::MistralRs>,
}

impl MistralRs {
    /// Loads the model in `model_dir` with `adapter` as the policy of step 0.
    ///
    /// # Errors
    /// [`EngineError::Model`] when a file is missing, the settings cannot work or the model does not load;
    /// [`EngineError::Adapter`] when the adapter does not fit it.
    pub async fn load(model_dir: &Path, settings: MistralSettings, adapter: Adapter) -> Result<Self, EngineError> {
        let loader = Arc::new(Loader::open(model_dir, settings)?);
        let first = loader.load(version(0, &adapter).await?, adapter).await?;
        Ok(Self {
            loader,
            current: watch::Sender::new(Some(Arc::new(first))),
            turn: Mutex::new(()),
            slots: Slots::new(settings.replicas(), settings.max_sequences()),
        })
    }

    /// The policy that answers a request that arrives now: in a suspended engine the next one.
    async fn current(&self) -> Result<Arc<Policy>, EngineError> {
        let mut current = self.current.subscribe();
        let policy = current.wait_for(Option::is_some).await.map_err(|_| EngineError::Stopped)?;
        policy.clone().ok_or(EngineError::Stopped)
    }

    /// Hands the sequences of a group to the models one by one, as places become free.
    async fn start_in_slots(
        &self,
        policy: &Policy,
        request: &Request,
        most: usize,
    ) -> Result<Vec<Caller>, EngineError> {
        let mut answers = Vec::with_capacity(request.group_size);
        for index in 0..request.group_size {
            let slot = self.slots.acquire().await?;
            let model = &policy.replicas[slot.replica()];
            let (sequence, answer) = Sequence::new(request, index, most);
            sequence.send(Place::Slot(slot), &model.requests);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Lets nobody have the current model any more, and waits until its memory is free.
    async fn unload(&self) {
        const GLANCE: Duration = Duration::from_millis(1);
        let Some(policy) = self.current.send_replace(None) else { return };
        let memory: Vec<Memory> = policy.replicas.iter().map(|replica| Arc::clone(&replica.memory)).collect();
        drop(policy);
        while memory.iter().any(|model| Arc::strong_count(model) > 1) {
            tokio::time::sleep(GLANCE).await;
        }
        // The last hold is ours, so that the memory is free when this is done. A panic on the way has been printed.
        drop(tokio::task::spawn_blocking(move || drop(memory)).await);
    }
}

/// What an adapter will be loaded as: named by its own bytes, whose hash may take longer than the runtime is to be blocked.
async fn version(step: u64, adapter: &Adapter) -> Result<PolicyVersion, EngineError> {
    let adapter = adapter.clone();
    let hash = tokio::task::spawn_blocking(move || adapter.verify()).await.map_err(|_| EngineError::Stopped)??;
    Ok(PolicyVersion { step, adapter: hash })
}

impl Engine for MistralRs {
    /// Dropping the future makes the sequences that already run draw a stop token next; without stop tokens they
    /// run on to their length, unread. A slot is free again only when mistral.rs has let go of its sequence.
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        let policy = self.current().await?;
        let max_new_tokens = request.room(policy.context)?;
        if !request.sampling.stop_strings.is_empty() && request.sampling.stop_tokens.is_empty() {
            let problem = "mistral.rs needs a stop token beside stop strings, to end its sequence with";
            return Err(EngineError::Generate(problem.into()));
        }
        let answers = match policy.replicas.first().and_then(|model| Some((model, model.wave.clone()?))) {
            Some((model, wave)) => policy.start_in_waves(model, &wave, &request, max_new_tokens).await,
            None => self.start_in_slots(&policy, &request, max_new_tokens).await?,
        };
        let mut completions = Vec::with_capacity(request.group_size);
        for answer in answers {
            let Answer { tokens, log_probs, full_log_probs, finish } =
                answer.await.map_err(|_| EngineError::Stopped)??;
            let (policy, last_policy) = (policy.version.clone(), policy.version.clone());
            completions.push(Completion { tokens, log_probs, full_log_probs, finish, policy, last_policy });
        }
        Ok(completions)
    }

    /// Dropping the future side by side keeps the old policy, and the model being built is thrown away when it is ready;
    /// otherwise it may leave the engine suspended.
    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let _turn = self.turn.lock().await;
        // Before the old policy goes: a wrong adapter must not leave the engine without any.
        let version = version(step, &adapter).await?;
        if self.loader.settings.swap == Swap::Reload {
            self.unload().await;
        }
        // The model's folder was fine once: what fails now is the run's fault, not the user's input.
        let next = self.loader.load(version.clone(), adapter).await.map_err(|error| match error {
            EngineError::Model { problem, .. } => {
                EngineError::Adapter(format!("mistral.rs did not load it: {problem}"))
            }
            other => other,
        })?;
        self.current.send_replace(Some(Arc::new(next)));
        Ok(version)
    }

    async fn suspend(&self) -> Result<(), EngineError> {
        let _turn = self.turn.lock().await;
        self.unload().await;
        Ok(())
    }

    /// Enough to fill the places, and one to wait; on a GPU as many again, for waves to take up.
    fn concurrency(&self, group_size: usize) -> usize {
        let settings = &self.loader.settings;
        let filling = (settings.replicas() * settings.max_sequences()).div_ceil(group_size.max(1));
        match settings.device {
            Device::Cpu { .. } => filling + 1,
            Device::Gpu { .. } => 2 * filling + 1,
        }
    }
}

impl Policy {
    /// Lets a group wait for the wave that takes it up. Where nothing runs, a wave begins a moment later, with the shortest
    /// prompt that is there by then.
    async fn start_in_waves(&self, model: &Replica, wave: &Arc<Wave>, request: &Request, most: usize) -> Vec<Caller> {
        const GATHER: Duration = Duration::from_millis(2);
        let enter = |index| {
            let (sequence, answer) = Sequence::new(request, index, most);
            let requests = model.requests.clone();
            let launch = move |ticket| {
                // A caller that went away while it waited is passed over.
                if !sequence.is_abandoned() {
                    sequence.send(Place::Wave(ticket), &requests);
                }
            };
            wave.enter(request.prompt.len(), most, Box::new(launch));
            answer
        };
        let answers = (0..request.group_size).map(enter).collect();
        tokio::time::sleep(GATHER).await;
        wave.begin();
        answers
    }
}
