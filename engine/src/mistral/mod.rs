//! mistral.rs in process; the only folder that imports it.
//!
//! - `settings.rs` how a model is loaded · `check.rs` refuses models that mistral.rs would compute differently from the
//!   trainer
//! - `load.rs` builds a model with an adapter merged into it, on its own thread · `options.rs` our settings in its
//!   types
//! - `policy.rs` a loaded policy · `sequence.rs` a completion that is not in a model yet
//! - `admission.rs` what a sequence holds in a model: on a CPU one of the `slots.rs`, on a GPU a ticket of a `wave/`
//! - `capture/` draws the tokens of one sequence and sends its result out · `messages.rs` readable error messages
//!
//! mistral.rs 0.8.1 cannot exchange an adapter, so a publish builds another model ([`Swap`] says when the old one is
//! freed). Invariants:
//! - a request is answered by the policy that was current when it arrived, whatever is published meanwhile;
//! - a model without requests and without a policy ends its thread and frees its memory. 0.8.1 leaks one sleeping
//!   thread per model (its interval logger never ends): some kilobytes per publish;
//! - nothing here uses the network: every file has a local path.
//!
//! When a mistral.rs with exchangeable adapters is published, only `load.rs` changes.

mod admission;
mod capture;
mod check;
mod load;
mod messages;
mod options;
mod policy;
mod sequence;
mod settings;
mod slots;
mod wave;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Request};
use capture::Captured;
use load::Loader;
use policy::{LoadedPolicy, SharedPipeline};
pub use settings::{Cache, Device, MistralSettings, Swap};
use slots::Slots;

/// The engine: the policy that answers now, and the loader of the next one.
pub struct MistralRs {
    loader: Arc<Loader>,
    /// `None` while the engine is suspended.
    current: watch::Sender<Option<Arc<LoadedPolicy>>>,
    /// Held by a publish or a suspension, so that they happen one after the other.
    turn: Mutex<()>,
    slots: Arc<Slots>,
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

    /// The policy that answers a request that arrives now: the next one if the engine is suspended.
    async fn current(&self) -> Result<Arc<LoadedPolicy>, EngineError> {
        let mut current = self.current.subscribe();
        let policy = current.wait_for(Option::is_some).await.map_err(|_| EngineError::Stopped)?;
        policy.clone().ok_or(EngineError::Stopped)
    }

    /// Removes the current policy, and waits until its memory is free.
    async fn unload(&self) {
        const POLL: Duration = Duration::from_millis(1);
        let Some(policy) = self.current.send_replace(None) else { return };
        let pipelines: Vec<SharedPipeline> =
            policy.replicas.iter().map(|replica| Arc::clone(&replica.pipeline)).collect();
        drop(policy);
        while pipelines.iter().any(|pipeline| Arc::strong_count(pipeline) > 1) {
            tokio::time::sleep(POLL).await;
        }
        // We hold the last reference, so the memory is free after this. A panic was already printed.
        drop(tokio::task::spawn_blocking(move || drop(pipelines)).await);
    }
}

/// The version of an adapter, named by the hash of its bytes. Hashing may take too long for the runtime's threads.
async fn version(step: u64, adapter: &Adapter) -> Result<PolicyVersion, EngineError> {
    let adapter = adapter.clone();
    let hash = tokio::task::spawn_blocking(move || adapter.verify()).await.map_err(|_| EngineError::Stopped)??;
    Ok(PolicyVersion { step, adapter: hash })
}

impl Engine for MistralRs {
    /// If the future is dropped, the running sequences draw a stop token next; without stop tokens they continue to
    /// their full length. A slot is free again only when mistral.rs has dropped its sequence.
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        self.loader.check_length(&request)?;
        let policy = self.current().await?;
        let max_new_tokens = request.room(policy.context)?;
        if !request.sampling.stop_strings.is_empty() && request.sampling.stop_tokens.is_empty() {
            let problem = "mistral.rs needs a stop token in addition to stop strings, to end its sequence";
            return Err(EngineError::Generate(problem.into()));
        }
        let answers = match policy.replicas.first().and_then(|model| Some((model, model.wave.clone()?))) {
            Some((model, wave)) => policy.start_in_waves(model, &wave, &request, max_new_tokens).await,
            None => policy.start_in_slots(&self.slots, &request, max_new_tokens).await?,
        };
        let mut completions = Vec::with_capacity(request.group_size);
        for answer in answers {
            let Captured { tokens, log_probs, full_log_probs, finish } =
                answer.await.map_err(|_| EngineError::Stopped)??;
            let (policy, last_policy) = (policy.version.clone(), policy.version.clone());
            completions.push(Completion {
                tokens,
                log_probs,
                full_log_probs,
                finish,
                policy,
                last_policy,
                endpoint: None,
            });
        }
        Ok(completions)
    }

    /// If the future is dropped with [`Swap::SideBySide`], the old policy stays and the new model is dropped when it is
    /// built. With [`Swap::Reload`] the engine may stay suspended.
    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let _turn = self.turn.lock().await;
        // Before the old policy is removed, so that a wrong adapter does not leave the engine without one.
        let version = version(step, &adapter).await?;
        if self.loader.settings.swap == Swap::Reload {
            self.unload().await;
        }
        // The model's folder loaded before, so a failure now is the run's, not the user's input.
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

    /// Enough to fill the model, and one that waits; on a GPU twice as many, so that waves find sequences to admit.
    fn concurrency(&self, group_size: usize) -> usize {
        let settings = &self.loader.settings;
        let filling = (settings.replicas() * settings.max_sequences()).div_ceil(group_size.max(1));
        match settings.device {
            Device::Cpu { .. } => filling + 1,
            Device::Gpu { .. } => 2 * filling + 1,
        }
    }
}
