//! mistral.rs in process: the only module that imports it.
//!
//! - `mistral/check.rs` refuses models that mistral.rs would compute otherwise than the trainer
//! - `mistral/load.rs` builds a model with an adapter merged into it, on a thread of its own
//! - `mistral/capture.rs` draws the tokens of one sequence and carries its answer out
//! - `mistral/slots.rs` gives out the places that sequences may take
//!
//! mistral.rs 0.8.1 cannot swap an adapter, so a publish builds a second model while the first still answers, and
//! then replaces it; the first ends when its last request is answered. Invariants:
//! - a request is answered by the policy that was current when it arrived, whatever is published meanwhile;
//! - a model that no request and no policy holds ends its thread and frees its memory. 0.8.1 leaks one sleeping
//!   thread for each model (its interval logger never ends): some kilobytes a publish;
//! - nothing here reaches for the network: every file is named by its local path.
//!
//! When a mistral.rs with exchangeable adapters reaches crates.io, only `load.rs` changes.

mod capture;
mod check;
mod load;
mod slots;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use mistralrs::core::{NormalRequest, Request as CoreRequest, RequestMessage, SamplingParams, StopTokens};
use tokio::sync::mpsc;

use crate::sampler::mix_seed;
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Precision, Request};
use capture::{Answer, Bounds, Caller, Capture};
use load::Loader;
use slots::{Slot, Slots};

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
        /// Memory of the key-value cache in MiB. Twice this is used while a publish overlaps the old model.
        cache_mb: usize,
    },
}

/// How a model is loaded; the same for every publish of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MistralSettings {
    pub device: Device,
    pub precision: Precision,
}

impl MistralSettings {
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
    current: RwLock<Arc<Policy>>,
    /// Publishes are made one after the other.
    publishing: tokio::sync::Mutex<()>,
    slots: Arc<Slots>,
}

/// One loaded policy. Dropping the last reference ends its models' threads.
struct Policy {
    version: PolicyVersion,
    /// Prompt and completion together are at most this long.
    context: usize,
    replicas: Vec<Replica>,
}

/// One copy of the model.
struct Replica {
    requests: mpsc::Sender<CoreRequest>,
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
        let first = loader.load(0, adapter).await?;
        Ok(Self {
            loader,
            current: RwLock::new(Arc::new(first)),
            publishing: tokio::sync::Mutex::new(()),
            slots: Slots::new(settings.replicas(), settings.max_sequences()),
        })
    }

    fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine for MistralRs {
    /// Dropping the future makes the sequences that already run draw a stop token next; without stop tokens they
    /// run on to their length, unread. A slot is free again only when mistral.rs has let go of its sequence.
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        let policy = self.current();
        let max_new_tokens = request.room(policy.context)?;
        if !request.sampling.stop_strings.is_empty() && request.sampling.stop_tokens.is_empty() {
            let problem = "mistral.rs needs a stop token beside stop strings, to end its sequence with";
            return Err(EngineError::Generate(problem.into()));
        }
        let mut answers = Vec::with_capacity(request.group_size);
        for index in 0..request.group_size {
            let slot = self.slots.acquire().await?;
            answers.push(policy.start(&request, index, max_new_tokens, slot).await?);
        }
        let mut completions = Vec::with_capacity(request.group_size);
        for answer in answers {
            let Answer { tokens, log_probs, full_log_probs, finish } =
                answer.await.map_err(|_| EngineError::Stopped)??;
            let (policy, last_policy) = (policy.version.clone(), policy.version.clone());
            completions.push(Completion { tokens, log_probs, full_log_probs, finish, policy, last_policy });
        }
        Ok(completions)
    }

    /// Dropping the future keeps the old policy; the model being built is thrown away when it is ready.
    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let _turn = self.publishing.lock().await;
        // The model's folder was fine once: what fails now is the run's fault, not the user's input.
        let next = self.loader.load(step, adapter).await.map_err(|error| match error {
            EngineError::Model { problem, .. } => {
                EngineError::Adapter(format!("mistral.rs did not load it: {problem}"))
            }
            other => other,
        })?;
        let version = next.version.clone();
        let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), Arc::new(next));
        drop(old);
        Ok(version)
    }

    /// Enough to fill the slots, and one to wait.
    fn concurrency(&self, group_size: usize) -> usize {
        let settings = &self.loader.settings;
        (settings.replicas() * settings.max_sequences()).div_ceil(group_size.max(1)) + 1
    }
}

impl Policy {
    /// Hands one sequence to the model; the answer comes through the receiver.
    async fn start(
        &self,
        request: &Request,
        index: usize,
        max_new_tokens: usize,
        slot: Slot,
    ) -> Result<Caller, EngineError> {
        let (prompt_tokens, sampling) = (request.prompt.len(), request.sampling.clone());
        let bounds = Bounds { prompt_tokens, max_new_tokens, sampling };
        let replica = &self.replicas[slot.replica()];
        let (capture, response, caller) = Capture::new(bounds, mix_seed(request.seed, index as u64), slot);
        let message = RequestMessage::CompletionTokens(request.prompt.to_vec());
        let params = sampling_params(request, max_new_tokens);
        let mut core = NormalRequest::new_simple(message, params, response, 0, None, None);
        core.logits_processors = Some(vec![Arc::new(capture)]);
        replica.requests.send(CoreRequest::Normal(Box::new(core))).await.map_err(|_| EngineError::Stopped)?;
        Ok(caller)
    }
}

/// Greedy, because [`Capture`] has drawn already. Temperature 0 takes mistral.rs's arg-max path; leaving it unset
/// would mean 1.0 and a softmax over the one-hot logits.
fn sampling_params(request: &Request, max_new_tokens: usize) -> SamplingParams {
    SamplingParams {
        temperature: Some(0.0),
        max_len: Some(max_new_tokens),
        stop_toks: Some(StopTokens::Ids(request.sampling.stop_tokens.to_vec())),
        ..SamplingParams::deterministic()
    }
}
