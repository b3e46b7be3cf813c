//! The engine of a run, whichever it is: its answers are checked, and its time is limited.
//!
//! Groups, evaluations, canaries and publishes all go through it, so that no stage meets an answer that breaks the contract, and
//! none waits for one that never comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Adapter, Completion, Engine, EngineError, PolicyVersion, Request, contract};
use tokio::time::timeout;

use super::inputs::Inputs;
use crate::config::resolve::EngineChoice;

/// See the module.
pub struct Checked<E> {
    engine: Arc<E>,
    name: EngineChoice,
    /// Longest sequence, prompt and completion together.
    context: usize,
    vocab_size: usize,
    /// How long the engine may take; `None`: as long as it wants. Servers have time-outs of their own, and retries that take longer.
    limit: Option<Duration>,
    /// The step of the policy that was loaded last.
    loaded: AtomicU64,
}

impl<E: Engine> Checked<E> {
    pub fn new(engine: Arc<E>, name: EngineChoice, inputs: &Inputs) -> Self {
        let seconds = inputs.config.pipeline.engine_timeout_s;
        Self {
            engine,
            name,
            context: inputs.decoder.max_position_embeddings,
            vocab_size: inputs.decoder.vocab_size,
            limit: (seconds > 0 && name != EngineChoice::Remote).then(|| Duration::from_secs(seconds)),
            loaded: AtomicU64::new(0),
        }
    }

    async fn answer(
        &self,
        request: &Request,
        answer: impl Future<Output = Result<Vec<Completion>, EngineError>>,
    ) -> Result<Vec<Completion>, EngineError> {
        let loaded = self.loaded.load(Ordering::SeqCst);
        let completions = self.in_time("gave no answer", answer).await?;
        let checked = contract::check(request, &completions, request.room(self.context)?, self.vocab_size);
        checked.map_err(|problem| {
            EngineError::Generate(format!("the {} engine gave a wrong answer: {problem}", self.name))
        })?;
        match completions.iter().map(|it| it.policy.step).min() {
            Some(answered) if answered < loaded => {
                Err(EngineError::OldPolicy { engine: self.name.to_string(), answered, loaded })
            }
            _ => Ok(completions),
        }
    }

    /// What `work` gives, unless it takes too long. Then it is dropped, which abandons it.
    async fn in_time<T>(
        &self,
        problem: &str,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let Some(limit) = self.limit else { return work.await };
        timeout(limit, work).await.unwrap_or_else(|_| {
            let (name, seconds) = (self.name, limit.as_secs());
            Err(EngineError::Late(format!(
                "the {name} engine {problem} within {seconds} s; if it is only slow, raise pipeline.engine_timeout_s"
            )))
        })
    }
}

impl<E: Engine> Engine for Checked<E> {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        self.answer(&request, self.engine.generate(request.clone())).await
    }

    async fn generate_at(&self, endpoint: &str, request: Request) -> Result<Vec<Completion>, EngineError> {
        self.answer(&request, self.engine.generate_at(endpoint, request.clone())).await
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let problem = format!("did not load the policy of step {step}");
        let loaded = self.in_time(&problem, self.engine.publish(step, adapter)).await?;
        self.loaded.store(step, Ordering::SeqCst);
        Ok(loaded)
    }

    async fn suspend(&self) -> Result<(), EngineError> {
        self.in_time("did not free its memory", self.engine.suspend()).await
    }

    fn concurrency(&self, group_size: usize) -> usize {
        self.engine.concurrency(group_size)
    }

    fn take_step_times(&self) -> Vec<Duration> {
        self.engine.take_step_times()
    }

    fn steps(&self) -> u64 {
        self.engine.steps()
    }

    fn endpoints(&self) -> Vec<Arc<str>> {
        self.engine.endpoints()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.engine.counters()
    }
}
