//! Rollout workers: jobs in, groups out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use async_channel::{Receiver, Sender};
use engine::{Completion, Engine, EngineError, Request, Sampling};
use tokio::sync::OwnedSemaphorePermit;

use super::activity::Work;
use super::dispatch::ReservedJob;
use super::group::Group;
use super::inputs::Inputs;
use super::shared::SharedScheduler;
use crate::scheduler::Job;

/// This many failed groups in a row end the run.
const MAX_FAILURES: usize = 3;

/// What a worker makes of a job. The slot is freed when this is dropped.
pub enum RolledOut {
    Group {
        group: Group,
        slot: OwnedSemaphorePermit,
    },
    /// The engine failed. The job must be dropped.
    Failed {
        id: u64,
    },
}

/// What all workers share.
pub struct RolloutWorkers<E> {
    engine: Arc<E>,
    inputs: Arc<Inputs>,
    shared: Arc<SharedScheduler>,
    sampling: Sampling,
    /// Failures since the last success.
    failures: AtomicUsize,
}

impl<E: Engine> RolloutWorkers<E> {
    pub fn new(engine: Arc<E>, inputs: Arc<Inputs>, shared: Arc<SharedScheduler>) -> Self {
        let sampling = inputs.sampling();
        Self { engine, inputs, shared, sampling, failures: AtomicUsize::new(0) }
    }

    /// Serves jobs until their channel closes or nothing receives groups any more.
    ///
    /// # Errors
    /// The engine's error, if it is final or `MAX_FAILURES` groups fail in a row.
    pub async fn work(self: Arc<Self>, jobs: Receiver<ReservedJob>, groups: Sender<RolledOut>) -> Result<()> {
        while let Ok(ReservedJob { job, slot }) = jobs.recv().await {
            let prompt = self.inputs.train.item(job.arm, job.row)?.prompt.clone();
            let rolled_out = match self.generate(&job, prompt).await {
                Ok(completions) => {
                    self.failures.store(0, Ordering::Relaxed);
                    RolledOut::Group { group: Group { job, completions }, slot }
                }
                Err(error) => self.failed(&job, error)?,
            };
            if groups.send(rolled_out).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn failed(&self, job: &Job, error: EngineError) -> Result<RolledOut> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if error.is_final() {
            return Err(error).with_context(|| format!("job {} failed", job.id));
        }
        if failures >= MAX_FAILURES {
            let context = || format!("{failures} groups in a row failed; the last was job {}", job.id);
            return Err(error).with_context(context);
        }
        tracing::warn!(job = job.id, %error, "a group failed; another is drawn in its place");
        Ok(RolledOut::Failed { id: job.id })
    }

    async fn generate(&self, job: &Job, prompt: Arc<[u32]>) -> Result<Vec<Completion>, EngineError> {
        let group_size = self.inputs.config.group_size;
        let request = Request { prompt, group_size, seed: job.seed, sampling: self.sampling.clone() };
        let (_busy, _working) = (self.shared.engine_clock.enter(), self.shared.activity.begin(Work::Generating));
        self.engine.generate(request).await
    }
}
