//! A running pipeline: dispatcher → rollout workers → rewards → batches → learner, joined by bounded channels.
//!
//! [`Run`] is the one assembly. The `train` command, `bench pipeline` and the tests all start it.
//!
//! Invariants:
//! - Stopping is closing. When the dispatcher ends, each stage drains its input and drops its output.
//! - One `JoinSet` owns every task. The first failure ends the others and is the run's error. A watchdog names the stage that does
//!   not move.
//! - Two things go back, and neither goes through a queue: observations and the policy's step go through the scheduler and a
//!   wake-up. So full queues cannot deadlock.

pub mod activity;
pub mod batcher;
pub mod busy_clock;
pub mod checked;
pub mod dataset;
pub mod dispatch;
pub mod group;
pub mod inputs;
pub mod learner;
pub mod remote_settings;
pub mod reward;
pub mod rollout;
pub mod setup;
pub mod shared;
mod stages;
pub mod start_engine;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Result, ensure};
use engine::{Adapter, Engine};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::config::resolve::Resolved;
use crate::error::InputError;
use crate::run_dir::checkpoint::{Checkpoint, RunHistory, checkpoint_folder};
use crate::run_dir::fingerprints::Fingerprints;
use crate::run_dir::log;
use crate::run_dir::start::StartFrom;
use crate::scheduler::Scheduler;
use crate::train::worker::TrainerHandle;
use checked::Checked;
use inputs::Inputs;
use learner::{End, Learner, PolicyTrainer, unless_stopped};
use rollout::RolloutWorkers;
use setup::Setup;
use shared::SharedScheduler;
use stages::Stages;
use watchdog::Watchdog;

/// A run that is ready to start: everything that can be refused without an engine has been checked.
pub struct Run<T> {
    inputs: Arc<Inputs>,
    resolved: Resolved,
    trainer: T,
    adapter: Adapter,
    shared: Arc<SharedScheduler>,
    out: PathBuf,
    from: StartFrom,
    fingerprints: Fingerprints,
}

impl Run<TrainerHandle> {
    /// A run in the folder `out`.
    ///
    /// # Errors
    /// A model or rows that the run did not begin with; a checkpoint or a curriculum that does not fit. Nothing is written.
    pub fn prepare(setup: &Setup, out: &Path, from: StartFrom) -> Result<Self> {
        Self::new(setup.inputs.clone(), setup.base.resolved, out, from, |checkpoint| {
            let mut trainer = setup.base.trainer()?;
            if let Some(checkpoint) = checkpoint {
                let place = checkpoint_folder(out, checkpoint.step());
                trainer = trainer.restore(&checkpoint.trainer).map_err(|e| InputError::new(place.display(), e))?;
            }
            let adapter = trainer.adapter()?;
            Ok((TrainerHandle::spawn(trainer)?, adapter))
        })
    }
}

impl<T: PolicyTrainer> Run<T> {
    /// The same with any trainer, which `start` makes from the checkpoint, together with its present policy.
    ///
    /// # Errors
    /// As [`Run::prepare`].
    pub fn new(
        inputs: Arc<Inputs>,
        resolved: Resolved,
        out: &Path,
        from: StartFrom,
        start: impl FnOnce(Option<&Checkpoint>) -> Result<(T, Adapter)>,
    ) -> Result<Self> {
        let fingerprints = inputs.fingerprints()?;
        fingerprints.check(out, &inputs.folder, from.changes())?;
        let (trainer, adapter) = start(from.checkpoint())?;
        let scheduler = Scheduler::new(inputs.config.scheduler(), inputs.mixture());
        let mut scheduler = scheduler.map_err(InputError::in_curriculum)?.with_fresh_rows(inputs.train.fresh());
        if let Some(checkpoint) = from.checkpoint() {
            let restored = scheduler.restore(checkpoint.scheduler.clone());
            restored.map_err(|problem| InputError::new(out.display(), problem))?;
        }
        let shared = Arc::new(SharedScheduler::new(scheduler));
        Ok(Self { inputs, resolved, trainer, adapter, shared, out: out.to_path_buf(), from, fingerprints })
    }

    /// The policy that the engine must be loaded with.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// The scheduler, to read the ledger of a run that has ended.
    pub fn scheduler(&self) -> Arc<SharedScheduler> {
        self.shared.clone()
    }

    /// Runs until the last step is made or `stop` turns true. The engine must have loaded [`Run::adapter`].
    ///
    /// # Errors
    /// A folder that cannot be written; the first failure of any stage.
    pub async fn start<E: Engine>(self, engine: Arc<E>, mut stop: watch::Receiver<bool>) -> Result<End> {
        let (inputs, shared) = (self.inputs.clone(), self.shared.clone());
        let engine = Arc::new(Checked::new(engine, self.resolved.engine, &inputs));
        self.count_progress(&engine);
        let group_size = inputs.config.group_size;
        let workers = self.resolved.rollout_workers.unwrap_or_else(|| engine.concurrency(group_size)).max(1);
        // A run that is stopped here has made no step that is not in its checkpoint.
        let Some(learner) = unless_stopped(&mut stop, self.learner(engine.clone())).await? else {
            log::say("stopped before a step was made; nothing is lost");
            return Ok(End::Stopped);
        };

        let mut watchdog = Watchdog::start(shared.activity.clone(), &inputs.config.pipeline)?;
        let mut stages = Stages::default();
        let slots = Arc::new(Semaphore::new(workers));
        let (jobs_in, jobs) = async_channel::bounded(workers);
        let (groups_in, groups) = async_channel::bounded(workers);
        let (scored_in, scored) = async_channel::bounded(workers);
        let (batches_in, batches) = async_channel::bounded(1);
        let rollouts = Arc::new(RolloutWorkers::new(engine, inputs.clone(), shared.clone()));
        stages.spawn("dispatch", dispatch::dispatch(shared.clone(), slots, jobs_in));
        for _ in 0..workers {
            stages.spawn("rollout", rollouts.clone().work(jobs.clone(), groups_in.clone()));
        }
        drop((jobs, groups_in));
        stages.spawn("reward", reward::score_groups(shared.clone(), inputs.clone(), groups, scored_in));
        stages.spawn("batch", batcher::fill_batches(shared, inputs.config.batch_size, scored, batches_in));
        stages.spawn_last("learner", async move { learner.work(batches, stop).await.map(Some) });
        tokio::select! {
            end = stages.join() => end,
            Err(stalled) = watchdog.barks() => Err(stalled),
        }
    }

    /// Lets the watchdog see that trainer and engine go on within long work.
    fn count_progress<E: Engine>(&self, engine: &Arc<E>) {
        let (activity, blocks, engine) = (&self.shared.activity, self.trainer.progress(), Arc::downgrade(engine));
        activity.count(move || blocks.load(Ordering::Relaxed));
        activity.count(move || engine.upgrade().map_or(0, |engine| engine.steps()));
    }

    /// Opens the run's folder, and tells the engine its true step.
    async fn learner<E: Engine>(self, engine: Arc<E>) -> Result<Learner<E, T>> {
        let Self { inputs, resolved, trainer, adapter, shared, out, from, fingerprints } = self;
        // Only now, so that a run whose engine cannot start leaves no folder behind.
        let run = from.open(&out, &inputs.config)?;
        fingerprints.write(&out)?;
        let path = out.join("run.log");
        log::open(&path).map_err(|e| InputError::new(path.display(), e))?;
        // The engine loaded the adapter as the policy of step 0. After a resume it must know the true step.
        let step = shared.lock().step();
        if step > 0 {
            let loaded = engine.publish(step, adapter.clone()).await?.adapter;
            ensure!(loaded == adapter.hash, "the engine loaded {loaded}, not the checkpoint's adapter");
        }
        let published = BTreeMap::from([(step, adapter.hash)]);
        let history = from.checkpoint().map_or_else(RunHistory::default, |checkpoint| checkpoint.history.clone());
        Ok(Learner {
            sampling: inputs.sampling(),
            inputs,
            resolved,
            engine,
            trainer,
            shared,
            run,
            published,
            history,
            checked: BTreeSet::new(),
            saved: Instant::now(),
        })
    }
}
