//! Joins the stages: dispatcher → rollout workers → rewards → batches → learner, by bounded channels.
//!
//! Invariants: stopping is closing: once the dispatcher ends, each stage drains its input and drops its output. One
//! `JoinSet` owns every task; the first failure is kept, ends the others, and is the run's. What goes back (observations, the
//! policy's step) goes through the scheduler and a wake-up, never through a queue, so full queues cannot dead-lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use async_channel::{Receiver, Sender};
use engine::{Engine, Sampling};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::advantage::{AdvantageScale, group_advantages};
use crate::dataset::Dataset;
use crate::learner::{End, Learner};
use crate::reward::{self, RewardSettings};
use crate::rollout::{BusyClock, Rolled, Rollouts, Slotted};
use crate::scheduler::{DropReason, Next, Outcome, Scheduler};
use crate::tokenizer::ChatTokenizer;
use crate::types::ScoredGroup;

/// The scheduler as the stages share it, and what wakes the dispatcher.
pub struct Shared {
    scheduler: Mutex<Scheduler>,
    wake: Notify,
    /// Microseconds that the dispatcher has waited for a policy or a group.
    waited_us: AtomicU64,
    pub clock: Arc<BusyClock>,
}

impl Shared {
    pub fn new(scheduler: Scheduler) -> Self {
        let clock = Arc::default();
        Self { scheduler: Mutex::new(scheduler), wake: Notify::new(), waited_us: AtomicU64::new(0), clock }
    }

    /// The scheduler; the guard is never held across an await.
    pub fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the scheduler and lets the dispatcher look again.
    pub fn change<T>(&self, f: impl FnOnce(&mut Scheduler) -> T) -> T {
        let result = f(&mut self.scheduler());
        self.wake.notify_one();
        result
    }

    /// Seconds that the dispatcher has waited since the last call.
    pub fn take_waited(&self) -> f64 {
        self.waited_us.swap(0, Ordering::Relaxed) as f64 / 1e6
    }
}

/// What the stages need beside the learner.
pub struct Stages<E> {
    pub engine: Arc<E>,
    pub data: Arc<Dataset>,
    pub tokenizer: Arc<ChatTokenizer>,
    pub sampling: Sampling,
    pub reward: RewardSettings,
    pub batch_size: usize,
    pub group_size: usize,
    /// Requests in flight.
    pub workers: usize,
}

/// A scored group, and the slot that is held until it stands in a batch.
type Held = (ScoredGroup, OwnedSemaphorePermit);

/// Runs the stages until the learner is done or `stop` turns true.
///
/// # Errors
/// The first failure of any stage.
pub async fn run<E: Engine>(
    stages: Stages<E>,
    shared: Arc<Shared>,
    learner: Learner<E>,
    stop: watch::Receiver<bool>,
) -> Result<End> {
    let mut tasks: JoinSet<Result<Option<End>>> = JoinSet::new();
    let workers = stages.workers.max(1);
    let slots = Arc::new(Semaphore::new(workers));
    let (jobs_in, jobs) = async_channel::bounded(workers);
    let (groups_in, groups) = async_channel::bounded(workers);
    let (scored_in, scored) = async_channel::bounded(workers);
    let (batches_in, batches) = async_channel::bounded(1);
    let rollouts = Arc::new(Rollouts {
        engine: stages.engine.clone(),
        data: stages.data.clone(),
        sampling: stages.sampling.clone(),
        group_size: stages.group_size,
        clock: shared.clock.clone(),
        failures: AtomicUsize::new(0),
    });
    tasks.spawn(none(dispatch(shared.clone(), slots, jobs_in)));
    for _ in 0..workers {
        tasks.spawn(none(rollouts.clone().work(jobs.clone(), groups_in.clone())));
    }
    drop((jobs, groups_in));
    tasks.spawn(none(score_groups(shared.clone(), stages.data, stages.tokenizer, stages.reward, groups, scored_in)));
    let batcher = Batcher { shared: shared.clone(), size: stages.batch_size };
    tasks.spawn(none(batcher.work(scored, batches_in)));
    tasks.spawn(async move { learner.work(batches, stop).await.map(Some) });
    join(tasks).await
}

async fn none(task: impl Future<Output = Result<()>>) -> Result<Option<End>> {
    task.await.map(|()| None)
}

/// Waits for every task; a failure, or a learner that was told to stop, ends the others.
async fn join(mut tasks: JoinSet<Result<Option<End>>>) -> Result<End> {
    let mut end = None;
    while let Some(task) = tasks.join_next().await {
        match task.context("a stage panicked")?? {
            Some(End::Stopped) => {
                tasks.shutdown().await;
                return Ok(End::Stopped);
            }
            Some(finished) => end = Some(finished),
            None => {}
        }
    }
    end.context("the learner ended without a result: this is a bug")
}

/// Reserves a slot, asks the scheduler for a job, sends it.
async fn dispatch(shared: Arc<Shared>, slots: Arc<Semaphore>, jobs: Sender<Slotted>) -> Result<()> {
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let next = shared.scheduler().next_job();
        let job = match next {
            Next::Dispatch(job) => job,
            Next::Done => return Ok(()),
            Next::Wait => {
                let since = Instant::now();
                shared.wake.notified().await;
                shared.waited_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
                continue;
            }
        };
        if jobs.send(Slotted { job, slot }).await.is_err() {
            return Ok(());
        }
    }
}

/// Grades each group and tells the curriculum of it.
async fn score_groups(
    shared: Arc<Shared>,
    data: Arc<Dataset>,
    tokenizer: Arc<ChatTokenizer>,
    settings: RewardSettings,
    groups: Receiver<Rolled>,
    scored: Sender<Held>,
) -> Result<()> {
    while let Ok(rolled) = groups.recv().await {
        let (group, slot) = match rolled {
            Rolled::Group { group, slot } => (group, slot),
            Rolled::Failed { id } => {
                shared.change(|scheduler| scheduler.settle(id, Outcome::Dropped(DropReason::Failed)));
                continue;
            }
        };
        let group = reward::score(group, &data, &tokenizer, &settings)?;
        // In one unit whatever the loss takes, so that the curriculum's temperature keeps its meaning.
        let (rewards, advantages) = (group.rewards.clone(), group_advantages(&group.rewards, AdvantageScale::GroupStd));
        shared.scheduler().observe(group.job.id, rewards, advantages, group.tokens() as u64);
        if scored.send((group, slot)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Fills batches, leaving out groups that have become too old or that nothing can be learnt from.
struct Batcher {
    shared: Arc<Shared>,
    size: usize,
}

impl Batcher {
    async fn work(self, scored: Receiver<Held>, batches: Sender<Vec<ScoredGroup>>) -> Result<()> {
        // The step whose policy the batch in the making will train.
        let mut step = self.shared.scheduler().step();
        let mut batch = Vec::with_capacity(self.size);
        while let Ok((group, slot)) = scored.recv().await {
            let outcome = self.shared.change(|scheduler| {
                let outcome = scheduler.judge(&group.finished(), step);
                scheduler.settle(group.job.id, outcome);
                outcome
            });
            drop(slot);
            if outcome == Outcome::Accepted {
                batch.push(group);
            }
            if batch.len() == self.size {
                batch.sort_by_key(|group: &ScoredGroup| group.job.id);
                if batches.send(std::mem::take(&mut batch)).await.is_err() {
                    break;
                }
                step += 1;
            }
        }
        Ok(())
    }
}
