//! The first stage: asks the scheduler what to sample next, and hands it to the rollout workers.

use std::sync::Arc;

use anyhow::Result;
use async_channel::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::shared::SharedScheduler;
use crate::scheduler::{Job, Next};

/// A job, and the slot that was reserved for it before it was drawn.
///
/// The slot travels with the job and its group, and is freed when the group is in a batch. So a slow stage downstream
/// stops the drawing of jobs instead of filling memory.
pub struct ReservedJob {
    pub job: Job,
    pub slot: OwnedSemaphorePermit,
}

/// Reserves a slot, asks the scheduler for a job, and sends it, until the scheduler has no more.
///
/// # Errors
/// None in practice: the semaphore is never closed.
pub async fn dispatch(shared: Arc<SharedScheduler>, slots: Arc<Semaphore>, jobs: Sender<ReservedJob>) -> Result<()> {
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let next = shared.lock().next_job();
        let job = match next {
            Next::Dispatch(job) => job,
            Next::Done => return Ok(()),
            Next::Wait => {
                let since = Instant::now();
                shared.changed().await;
                shared.add_waited(since.elapsed());
                continue;
            }
        };
        if jobs.send(ReservedJob { job, slot }).await.is_err() {
            return Ok(());
        }
    }
}
