//! Rollout workers: jobs in, groups out.
//!
//! A slot is reserved before a job is drawn for it, and freed when the group has been handed on, so a slow stage
//! downstream stops the drawing of jobs instead of filling memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_channel::{Receiver, Sender};
use engine::{Engine, EngineError, Request, Sampling};
use tokio::sync::OwnedSemaphorePermit;

use crate::dataset::Dataset;
use crate::types::{Group, Job};

/// So many failed groups in a row end the run.
const MAX_FAILURES: usize = 3;

/// A job and the slot that was reserved for it.
pub struct Slotted {
    pub job: Job,
    pub slot: OwnedSemaphorePermit,
}

/// What a worker makes of a job; the slot is freed when this is dropped.
pub enum Rolled {
    Group {
        group: Group,
        slot: OwnedSemaphorePermit,
    },
    /// The engine failed; the job is to be dropped.
    Failed {
        id: u64,
    },
}

/// What every worker shares.
pub struct Rollouts<E> {
    pub engine: Arc<E>,
    pub data: Arc<Dataset>,
    pub sampling: Sampling,
    pub group_size: usize,
    pub clock: Arc<BusyClock>,
    /// Failures since the last success.
    pub failures: AtomicUsize,
}

impl<E: Engine> Rollouts<E> {
    /// Serves jobs until their channel closes or nobody wants groups any more.
    ///
    /// # Errors
    /// The engine's, if the request itself is wrong or `MAX_FAILURES` groups fail in a row.
    pub async fn work(self: Arc<Self>, jobs: Receiver<Slotted>, groups: Sender<Rolled>) -> Result<()> {
        while let Ok(Slotted { job, slot }) = jobs.recv().await {
            let rolled = match self.generate(&job).await {
                Ok(completions) => {
                    self.failures.store(0, Ordering::Relaxed);
                    Rolled::Group { group: Group { job, completions }, slot }
                }
                Err(error) => {
                    let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                    if error.is_input() || failures >= MAX_FAILURES {
                        return Err(error).with_context(|| {
                            format!("{failures} groups in a row failed; the last was job {}", job.id)
                        });
                    }
                    tracing::warn!(job = job.id, %error, "a group failed; another is drawn in its place");
                    Rolled::Failed { id: job.id }
                }
            };
            if groups.send(rolled).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn generate(&self, job: &Job) -> Result<Vec<engine::Completion>, EngineError> {
        let prompt = self.data.sources[job.arm].items[job.row].prompt.clone();
        let request = Request { prompt, group_size: self.group_size, seed: job.seed, sampling: self.sampling.clone() };
        let _busy = self.clock.enter();
        let completions = self.engine.generate(request).await?;
        if completions.len() != self.group_size {
            let problem = format!(
                "{} completions for a group of {}: this is a bug in the engine",
                completions.len(),
                self.group_size
            );
            return Err(EngineError::Generate(problem));
        }
        Ok(completions)
    }
}

/// Measures how long at least one request was running.
#[derive(Default)]
pub struct BusyClock {
    state: Mutex<Busy>,
}

#[derive(Default)]
struct Busy {
    running: usize,
    since: Option<Instant>,
    total: Duration,
}

/// Counts as a running request until dropped.
pub struct BusyGuard<'a>(&'a BusyClock);

impl BusyClock {
    pub fn enter(&self) -> BusyGuard<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.running == 0 {
            state.since = Some(Instant::now());
        }
        state.running += 1;
        BusyGuard(self)
    }

    /// Busy time since the last call.
    pub fn take(&self) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(since) = state.since.replace(now).filter(|_| state.running > 0) {
            state.total += now - since;
        }
        std::mem::take(&mut state.total)
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        if state.running == 0 {
            let busy = state.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            state.total += busy;
        }
    }
}
