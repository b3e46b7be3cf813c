//! The last stage: train on a batch, publish the policy, count the step, log, evaluate, save. Only then the dispatcher is woken.
//!
//! - `check`: does a new engine compute what the trainer computes? · `publish`: a policy into the engine
//! - `canary`: fresh samples scored again · [`eval`]: held-out rows · [`record`]: what a step is logged as
//! - `health`: what a step shows of the run's health · [`stuck`]: a run that cannot learn says so
//! - [`logprob_check`]: how far an engine's log-probabilities are from the trainer's

mod canary;
mod check;
pub mod eval;
mod health;
pub mod logprob_check;
mod publish;
pub mod record;
pub mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};
use async_channel::Receiver;
use engine::{AdapterHash, Engine, Finish, Sampling};
use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::Work;
use super::group::ScoredGroup;
use super::inputs::Inputs;
use super::shared::SharedScheduler;
use crate::advantage::{AdvantageScale, divide_by_batch_std};
use crate::config::resolve::Resolved;
use crate::metric_names as names;
use crate::run_dir::RunDir;
use crate::run_dir::checkpoint::{Checkpoint, RunHistory};
use crate::run_dir::metrics::MetricsLine;
use crate::run_dir::score::SourceScore;
use crate::run_dir::{log, progress};
use crate::train::sample::Sample;
use crate::train::stats::{Mismatch, StepStats};
use crate::train::trainer::StepOutput;
use crate::train::trainer::state::TrainerState;
use crate::train::worker::TrainerHandle;
use record::StepTimes;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All steps were made. The first and the last evaluation, where there were any.
    Finished { first: Option<Vec<SourceScore>>, last: Option<Vec<SourceScore>> },
    /// The run was asked to stop. Every whole step is in a checkpoint.
    Stopped,
}

/// The error of a learner whose batches ended too early: another stage has failed, and its error is the cause.
#[derive(Debug, thiserror::Error)]
#[error("the stages before the learner ended early: this is a bug")]
pub(super) struct EndedEarly;

/// Whether the run is asked to stop.
pub(super) type Asked = watch::Receiver<bool>;

/// An evaluation, where there was one.
type Scores = Option<Vec<SourceScore>>;

/// What the learner asks of a trainer. [`TrainerHandle`] is the real one; tests of the stages use one that takes virtual time.
pub trait PolicyTrainer: Send + Sync + 'static {
    /// One policy step on `samples` from the policy of `step`. Dropping the future does not stop the step. `None` if the step was
    /// given up: then it changed nothing.
    fn step(&self, step: u64, samples: Vec<Sample>) -> impl Future<Output = Result<Option<StepOutput>>> + Send;

    /// How far an engine's log-probabilities are from those of the policy of `step`.
    fn mismatch(&self, step: u64, samples: Vec<Sample>) -> impl Future<Output = Result<Mismatch>> + Send;

    /// Everything that a resume needs.
    fn state(&self) -> impl Future<Output = Result<TrainerState>> + Send;

    /// Grows while something is computed, so that a slow step can be told from one that stands still.
    fn progress(&self) -> Arc<AtomicU64> {
        Arc::default()
    }

    /// Gives up what is computed now, and all that is asked for later except [`PolicyTrainer::state`].
    fn give_up(&self);
}

impl PolicyTrainer for TrainerHandle {
    async fn step(&self, step: u64, samples: Vec<Sample>) -> Result<Option<StepOutput>> {
        TrainerHandle::step(self, step, samples).await
    }

    async fn mismatch(&self, step: u64, samples: Vec<Sample>) -> Result<Mismatch> {
        TrainerHandle::mismatch(self, step, samples).await
    }

    async fn state(&self) -> Result<TrainerState> {
        TrainerHandle::state(self).await
    }

    fn progress(&self) -> Arc<AtomicU64> {
        TrainerHandle::progress(self)
    }

    fn give_up(&self) {
        TrainerHandle::give_up(self);
    }
}

/// See the module.
pub struct Learner<E, T> {
    pub(super) inputs: Arc<Inputs>,
    pub(super) resolved: Resolved,
    pub(super) engine: Arc<E>,
    pub(super) trainer: T,
    pub(super) shared: Arc<SharedScheduler>,
    pub(super) run: RunDir,
    pub(super) sampling: Sampling,
    /// The adapter that each recent step published.
    pub(super) published: BTreeMap<u64, AdapterHash>,
    pub(super) history: RunHistory,
    /// Servers that compute what the trainer computes.
    pub(super) checked: BTreeSet<Arc<str>>,
    /// When the last checkpoint was saved, or the run started.
    pub(super) saved: Instant,
}

impl<E: Engine, T: PolicyTrainer> Learner<E, T> {
    /// Serves batches until the last step is made or `stop` turns true. Then whatever runs is given up, except a step that is
    /// trained: that one counts.
    ///
    /// # Errors
    /// An engine that fails its check, loads other weights than were published, or computes something else than the trainer;
    /// too many gradients in a row that are not finite; what training, sampling or writing fails with.
    pub async fn work(mut self, batches: Receiver<Vec<ScoredGroup>>, mut stop: watch::Receiver<bool>) -> Result<End> {
        match self.all_steps(batches, &mut stop).await? {
            Some(end) => Ok(end),
            None => self.stop().await,
        }
    }

    /// `None` if the run is asked to stop.
    async fn all_steps(&mut self, batches: Receiver<Vec<ScoredGroup>>, stop: &mut Asked) -> Result<Option<End>> {
        let Some(()) = unless_stopped(stop, self.check_engine()).await? else { return Ok(None) };
        let Some(mut last) = self.catch_up(stop).await? else { return Ok(None) };
        let mut since = Instant::now();
        while self.step() < self.inputs.config.max_steps {
            let waiting = Instant::now();
            let next = async { batches.recv().await.map_err(|_| anyhow::Error::new(EndedEarly)) };
            let Some(batch) = unless_stopped(stop, next).await? else { return Ok(None) };
            let times = StepTimes::new(since, waiting.elapsed());
            let Some(scores) = self.one_step(batch, times, stop).await? else { return Ok(None) };
            last = scores.or(last);
            since = Instant::now();
        }
        Ok(Some(End::Finished { first: self.history.first_eval.clone(), last }))
    }

    fn step(&self) -> u64 {
        self.shared.lock().step()
    }

    async fn stop(mut self) -> Result<End> {
        self.trainer.give_up();
        self.shared.change(|scheduler| scheduler.close());
        let path = self.checkpoint().await?;
        log::say(&format!("stopped; checkpoint in {}", path.display()));
        Ok(End::Stopped)
    }

    /// Evaluates the base model in a new run, and after a resume what the stop cut off.
    async fn catch_up(&mut self, stop: &mut Asked) -> Result<Option<Scores>> {
        if let Some(line) = self.history.unevaluated.clone() {
            let Some(scores) = self.measure(MetricsLine::from(line), stop).await? else { return Ok(None) };
            self.checkpoint().await?;
            return Ok(Some(scores));
        }
        match self.step() == 0 && self.history.first_eval.is_none() && self.is_evaluated(0) {
            true => self.measure(MetricsLine::new(0), stop).await,
            false => Ok(Some(None)),
        }
    }

    fn is_evaluated(&self, step: u64) -> bool {
        let (interval, last) = (self.inputs.config.eval.interval, self.inputs.config.max_steps);
        interval > 0 && (step.is_multiple_of(interval) || step == last)
    }

    /// Evaluates where that is due, and writes the line. `None` if the run is asked to stop: the line is kept for the resume.
    async fn measure(&mut self, mut line: MetricsLine, stop: &mut Asked) -> Result<Option<Scores>> {
        let step = line.step();
        let scores = match self.is_evaluated(step) {
            false => None,
            true => match unless_stopped(stop, self.evaluate(step, &mut line)).await? {
                None => {
                    self.history.unevaluated = Some(line.into_map());
                    return Ok(None);
                }
                scores => scores,
            },
        };
        self.run.metrics(&line.into_map())?;
        self.history.unevaluated = None;
        if step == 0 {
            self.history.first_eval = scores.clone();
        }
        Ok(Some(scores))
    }

    async fn evaluate(&self, step: u64, line: &mut MetricsLine) -> Result<Vec<SourceScore>> {
        let since = Instant::now();
        let scores = eval::evaluate(&self.engine, &self.inputs, &self.shared.activity).await?;
        line.eval(&scores, self.inputs.config.eval.samples, since.elapsed().as_secs_f64());
        log::say(&progress::eval_line(step, &scores));
        Ok(scores)
    }

    /// `None` if the run is asked to stop.
    async fn one_step(
        &mut self,
        mut batch: Vec<ScoredGroup>,
        mut times: StepTimes,
        stop: &mut Asked,
    ) -> Result<Option<Scores>> {
        let step = self.step();
        if self.inputs.config.advantage.scale == AdvantageScale::BatchStd {
            scale_advantages(&mut batch);
        }
        let Some(()) = unless_stopped(stop, self.check_new_servers(&batch)).await? else { return Ok(None) };
        let samples = self.samples(&batch)?;
        let since = Instant::now();
        let Some(()) = unless_stopped(stop, self.make_room()).await? else { return Ok(None) };
        times.publish = since.elapsed();
        let since = Instant::now();
        let Some(output) = self.train(step, samples, stop).await? else { return Ok(None) };
        times.train = since.elapsed();
        self.check_health(step, &output.stats, &batch)?;
        let since = Instant::now();
        // From here on the step is made. A run that stops needs no engine any more: a resume publishes the policy.
        unless_stopped(stop, self.publish(step + 1, output.adapter)).await?;
        times.publish += since.elapsed();
        let canary = unless_stopped(stop, self.canary(step + 1)).await?.flatten();
        self.check_mismatch(&output.stats, canary)?;
        self.record(&batch, &output.stats, canary, &times, stop).await
    }

    /// `None` if the run is asked to stop before the step is whole.
    async fn train(&self, step: u64, samples: Vec<Sample>, stop: &mut Asked) -> Result<Option<StepOutput>> {
        let _working = self.shared.activity.begin(Work::Training);
        let mut training = pin!(self.trainer.step(step, samples));
        tokio::select! {
            output = &mut training => output,
            () = stopped(stop) => {
                self.trainer.give_up();
                training.await
            }
        }
    }

    /// Counts the step, writes what is known of it, evaluates and saves where that is due. `None` if the run is asked to stop.
    async fn record(
        &mut self,
        batch: &[ScoredGroup],
        stats: &StepStats,
        canary: Option<f64>,
        times: &StepTimes,
        stop: &mut Asked,
    ) -> Result<Option<Scores>> {
        let (inputs, sources) = (self.inputs.clone(), self.inputs.train.names());
        let config = &inputs.config;
        let working = self.shared.activity.begin(Work::Recording);
        let (history, step, mut line) = {
            let mut scheduler = self.shared.lock();
            scheduler.observe_gradients(&stats.gradients);
            scheduler.trained(&batch.iter().map(|group| group.job.id).collect::<Vec<_>>());
            let mut line = MetricsLine::new(scheduler.step());
            line.values(record::curriculum(&scheduler));
            (scheduler.take_history(), scheduler.step(), line)
        };
        line.values(record::batch(batch));
        line.values(record::parts(batch));
        line.values(record::graders(&inputs, self.shared.grading_clock.take()));
        line.values(record::engine(&*self.engine));
        line.values(stats.metrics());
        line.values(canary.map(|difference| (names::MISMATCH_CANARY_MAX_DIFF, difference)));
        line.values(times.metrics(self.shared.engine_clock.take(), self.shared.take_waited(), batch));
        log::say(&progress::step_line(config.max_steps, &line, &sources));
        self.warn_if_stuck(batch)?;
        self.run.rollouts(step, record::rollout_lines(step, batch, &sources))?;
        self.run.observations(&record::observations(step, &history.observed, &stats.gradients, &sources))?;
        self.run.decisions(&record::decisions(step, &history.ended, &sources))?;
        drop(working);

        let Some(scores) = self.measure(line, stop).await? else { return Ok(None) };
        if config.ckpt.is_due(step, self.saved.elapsed(), config.max_steps) {
            self.checkpoint().await?;
        }
        // With η = 0 the dispatcher may draw for the next step only now, so that evaluation and checkpoint see a policy at rest.
        self.shared.wake();
        Ok(Some(scores))
    }

    /// The batch as the trainer takes it. Each completion must name policies that were published.
    fn samples(&self, batch: &[ScoredGroup]) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for group in batch {
            let item = self.inputs.train.item(group.job.arm, group.job.row)?;
            for (completion, &advantage) in group.completions.iter().zip(&group.advantages) {
                for policy in [&completion.policy, &completion.last_policy] {
                    let known = self.published.get(&policy.step) == Some(&policy.adapter);
                    ensure!(
                        known,
                        "a completion of job {} names policy {policy:?}, which was not published: this is a bug",
                        group.job.id
                    );
                }
                samples.push(Sample {
                    group: group.job.id,
                    source: group.job.arm,
                    prompt: item.prompt.clone(),
                    completion: completion.tokens.clone(),
                    rollout_log_probs: completion.full_log_probs.clone(),
                    advantage,
                    policy_step: completion.policy.step,
                    truncated: completion.finish == Finish::Length,
                });
            }
        }
        Ok(samples)
    }

    async fn checkpoint(&mut self) -> Result<PathBuf> {
        let _working = self.shared.activity.begin(Work::Saving);
        let trainer = self.trainer.state().await?;
        let scheduler = self.shared.lock().state();
        let checkpoint = Checkpoint { trainer, scheduler, history: self.history.clone() };
        let unsynced = self.run.unsynced(checkpoint.step());
        let path =
            checkpoint.save(self.run.path(), &self.inputs.config.ckpt, unsynced).context("saving a checkpoint")?;
        self.saved = Instant::now();
        Ok(path)
    }
}

/// Divides the advantages of all completions by their standard deviation over the batch.
fn scale_advantages(batch: &mut [ScoredGroup]) {
    let mut all: Vec<f32> = batch.iter().flat_map(|group| group.advantages.clone()).collect();
    divide_by_batch_std(&mut all);
    let advantages = batch.iter_mut().flat_map(|group| &mut group.advantages);
    advantages.zip(all).for_each(|(advantage, scaled)| *advantage = scaled);
}

/// What `work` gives. `None` if the run is asked to stop before: then `work` is dropped.
pub(super) async fn unless_stopped<T>(stop: &mut Asked, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    tokio::select! {
        biased;
        () = stopped(stop) => Ok(None),
        output = work => output.map(Some),
    }
}

/// Returns when the run is asked to stop; never, if nothing can ask any more.
async fn stopped(stop: &mut Asked) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
