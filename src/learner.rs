//! The end of the line: train on a batch, publish the policy, evaluate, log, checkpoint, and only then count the step.

mod check;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use async_channel::Receiver;
use engine::{Adapter, AdapterHash, Engine, EngineError, Finish, Precision, Quantization, Request, Sampling};
use tokio::sync::watch;

use crate::advantage::{AdvantageScale, divide_by_batch_std};
use crate::agreement::{self, mismatch_limit};
use crate::checkpoint::Checkpoint;
use crate::config::run::{CkptConfig, EvalConfig, SyncMode};
use crate::dataset::Dataset;
use crate::eval::{self, EvalSettings, SourceScore};
use crate::metric_names as names;
use crate::metrics::{self, StepTimes};
use crate::pipeline::Shared;
use crate::progress;
use crate::run_dir::RunDir;
use crate::run_log;
use crate::tokenizer::ChatTokenizer;
use crate::train::MAX_SKIPPED;
use crate::train::stats::StepStats;
use crate::train::trainer::Sample;
use crate::train::worker::TrainerHandle;
use crate::types::ScoredGroup;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All steps were made; the first and the last evaluation, where there were any.
    Finished { first: Option<Vec<SourceScore>>, last: Option<Vec<SourceScore>> },
    /// Somebody asked it to stop; a checkpoint was written.
    Stopped,
}

/// See the module.
pub struct Learner<E> {
    pub engine: Arc<E>,
    pub trainer: TrainerHandle,
    pub shared: Arc<Shared>,
    pub run: RunDir,
    pub tokenizer: Arc<ChatTokenizer>,
    pub train_data: Arc<Dataset>,
    pub test_data: Arc<Dataset>,
    pub sampling: Sampling,
    pub eval: EvalConfig,
    pub eval_settings: EvalSettings,
    pub ckpt: CkptConfig,
    pub max_steps: u64,
    pub scale: AdvantageScale,
    /// What the engine really computes in.
    pub precision: Precision,
    pub quantization: Quantization,
    /// Never `Auto`.
    pub sync: SyncMode,
    /// η; above 0 a canary is sampled after each publish.
    pub max_off_policy_steps: u64,
    /// Whether the engine is held against the trainer before the first step.
    pub checks_engine: bool,
    pub first_eval: Option<Vec<SourceScore>>,
    pub seed: u64,
    /// The adapter that each recent step published.
    pub published: BTreeMap<u64, AdapterHash>,
    pub skipped_in_a_row: usize,
}

impl<E: Engine> Learner<E> {
    /// Serves batches until the last step is made or `stop` turns true.
    pub async fn work(mut self, batches: Receiver<Vec<ScoredGroup>>, mut stop: watch::Receiver<bool>) -> Result<End> {
        self.check_engine().await?;
        let mut last_eval = self.evaluate_first().await?;
        let mut since = Instant::now();
        while self.step() < self.max_steps {
            let waiting = Instant::now();
            let batch = tokio::select! {
                biased;
                () = stopped(&mut stop) => None,
                batch = batches.recv() => Some(batch.context("the stages before the learner ended early")?),
            };
            let Some(batch) = batch else { return self.stop().await };
            let wait_for_batch = waiting.elapsed();
            last_eval = self.one_step(batch, StepTimes::new(since, wait_for_batch)).await?.or(last_eval);
            since = Instant::now();
        }
        Ok(End::Finished { first: self.first_eval, last: last_eval })
    }

    fn step(&self) -> u64 {
        self.shared.scheduler().step()
    }

    async fn stop(self) -> Result<End> {
        self.shared.change(|scheduler| scheduler.close());
        let path = self.checkpoint().await?;
        run_log::say(&format!("stopped; checkpoint in {}", path.display()));
        Ok(End::Stopped)
    }

    /// Evaluates the base model, unless the run was resumed or evaluates never.
    async fn evaluate_first(&mut self) -> Result<Option<Vec<SourceScore>>> {
        if self.eval.interval == 0 || self.step() > 0 || self.first_eval.is_some() {
            return Ok(None);
        }
        let (scores, seconds) = self.evaluate().await?;
        let mut line = metrics::Line::new(0);
        line.eval(&scores, self.eval.samples, seconds);
        self.run.metrics(&line.into_map())?;
        run_log::say(&progress::eval_line(0, &scores));
        self.first_eval = Some(scores.clone());
        Ok(Some(scores))
    }

    async fn evaluate(&self) -> Result<(Vec<SourceScore>, f64)> {
        let since = Instant::now();
        let scores = eval::evaluate(&self.engine, &self.test_data, &self.tokenizer, &self.eval_settings).await?;
        Ok((scores, since.elapsed().as_secs_f64()))
    }

    async fn one_step(
        &mut self,
        mut batch: Vec<ScoredGroup>,
        mut times: StepTimes,
    ) -> Result<Option<Vec<SourceScore>>> {
        let (step, sources) = (self.step(), self.train_data.names());
        if self.scale == AdvantageScale::BatchStd {
            scale_advantages(&mut batch);
        }
        let samples = self.samples(&batch)?;
        let since = Instant::now();
        self.make_room().await?;
        times.publish = since.elapsed();
        let since = Instant::now();
        let output = self.trainer.step(step, samples).await?;
        times.train = since.elapsed();
        self.check_health(step, &output.stats, &batch)?;
        let since = Instant::now();
        self.publish(step + 1, output.adapter).await?;
        times.publish += since.elapsed();
        let canary = self.canary(step + 1).await?;

        let mut line = metrics::Line::new(step + 1);
        let history = {
            let mut scheduler = self.shared.scheduler();
            scheduler.trained(&batch.iter().map(|group| group.job.id).collect::<Vec<_>>());
            line.curriculum(&scheduler);
            scheduler.take_history()
        };
        line.batch(&batch);
        line.values(output.stats.metrics());
        line.values(canary.map(|difference| (names::MISMATCH_CANARY_MAX_DIFF, difference)));
        line.times(&times, self.shared.clock.take(), self.shared.take_waited(), &batch);
        run_log::say(&progress::step_line(self.max_steps, &line, &sources));
        self.run.rollouts(step + 1, metrics::rollout_lines(step + 1, &batch, &sources))?;
        self.run.observations(&metrics::observations(step + 1, &history.observed, &sources))?;
        self.run.decisions(&metrics::decisions(step + 1, &history.ended, &sources))?;

        let scores = self.evaluate_at(step + 1, &mut line).await?;
        self.run.metrics(&line.into_map())?;
        if self.ckpt.interval > 0 && (step + 1).is_multiple_of(self.ckpt.interval) || step + 1 == self.max_steps {
            self.checkpoint().await?;
        }
        // With η = 0 only now may the dispatcher draw for the next step: an evaluation and a checkpoint see a policy at rest.
        self.shared.change(|_| ());
        Ok(scores)
    }

    async fn evaluate_at(&self, step: u64, line: &mut metrics::Line) -> Result<Option<Vec<SourceScore>>> {
        let due = self.eval.interval > 0 && (step.is_multiple_of(self.eval.interval) || step == self.max_steps);
        if !due {
            return Ok(None);
        }
        let (scores, seconds) = self.evaluate().await?;
        line.eval(&scores, self.eval.samples, seconds);
        run_log::say(&progress::eval_line(step, &scores));
        Ok(Some(scores))
    }

    /// The batch as the trainer wants it; each completion's policies must be ones that were published.
    fn samples(&self, batch: &[ScoredGroup]) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for group in batch {
            let prompt = &self.train_data.sources[group.job.arm].items[group.job.row].prompt;
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
                    prompt: prompt.clone(),
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

    fn check_health(&mut self, step: u64, stats: &StepStats, batch: &[ScoredGroup]) -> Result<()> {
        self.skipped_in_a_row = if stats.skipped_updates > 0 { self.skipped_in_a_row + 1 } else { 0 };
        if stats.skipped_updates > 0 {
            tracing::warn!("the gradient was not finite; the update was left out");
        }
        if self.skipped_in_a_row >= MAX_SKIPPED {
            let (samples, sources) = (self.samples(batch)?, self.train_data.names());
            let path = self.run.failed_batch(step + 1, metrics::sample_lines(batch, &samples, &sources))?;
            bail!(
                "{MAX_SKIPPED} steps in a row had a gradient that is not finite; lower optim.lr or optim.max_grad_norm. \
                 The last batch is in {}",
                path.display()
            );
        }
        if stats.mismatch.on_policy_max > mismatch_limit(self.precision, self.quantization) {
            let difference = stats.mismatch.on_policy_max;
            tracing::warn!(difference, "engine and trainer disagree on log-probabilities of the same policy");
        }
        Ok(())
    }

    /// Unloads the engine where it and the trainer take turns, until a policy is published; what is asked of it in between
    /// waits for that.
    async fn make_room(&self) -> Result<()> {
        match self.sync {
            SyncMode::Alternate => self.engine.suspend().await.context("unloading the engine"),
            _ => Ok(()),
        }
    }

    async fn publish(&mut self, step: u64, adapter: Adapter) -> Result<()> {
        let published = adapter.hash.clone();
        let loaded = self.engine.publish(step, adapter).await.context("publishing the policy")?;
        if loaded.adapter != published {
            return Err(EngineError::WrongAdapter { published, loaded: loaded.adapter }.into());
        }
        self.published.insert(step, published);
        self.published = self.published.split_off(&step.saturating_sub(self.max_off_policy_steps + 1));
        Ok(())
    }

    /// Samples a group from the policy just published and scores it with the trainer, which holds the same policy: what
    /// differs is the engine's doing, not staleness. With η = 0 every batch shows this by itself.
    async fn canary(&self, step: u64) -> Result<Option<f64>> {
        if self.max_off_policy_steps == 0 {
            return Ok(None);
        }
        let items = &self.train_data.sources[step as usize % self.train_data.sources.len()].items;
        let prompt = items[step as usize % items.len()].prompt.clone();
        let seed = engine::sampler::mix_seed(self.seed ^ 0xCA9A, step);
        let request = Request { prompt: prompt.clone(), group_size: 2, seed, sampling: self.sampling.clone() };
        let completions = match self.engine.generate(request).await {
            Ok(completions) => completions,
            Err(error) => {
                tracing::warn!(%error, "the canary was not sampled");
                return Ok(None);
            }
        };
        let fresh =
            completions.iter().all(|c| c.policy.step == step && self.published.get(&step) == Some(&c.policy.adapter));
        ensure!(fresh, "after step {step} was published, the engine still answered by another policy");
        let samples = completions.into_iter().map(|it| agreement::sample(prompt.clone(), it)).collect();
        let mismatch = self.trainer.mismatch(step, samples).await?;
        Ok(Some(mismatch.on_policy_max))
    }

    async fn checkpoint(&self) -> Result<std::path::PathBuf> {
        let trainer = self.trainer.state().await?;
        let scheduler = self.shared.scheduler().state();
        let checkpoint = Checkpoint {
            trainer,
            scheduler,
            first_eval: self.first_eval.clone(),
            skipped_in_a_row: self.skipped_in_a_row,
        };
        checkpoint.save(self.run.path(), self.ckpt.keep_last).context("saving a checkpoint")
    }
}

/// Divides the advantages of all completions by their standard deviation over the batch.
fn scale_advantages(batch: &mut [ScoredGroup]) {
    let mut all: Vec<f32> = batch.iter().flat_map(|group| group.advantages.clone()).collect();
    divide_by_batch_std(&mut all);
    let advantages = batch.iter_mut().flat_map(|group| &mut group.advantages);
    advantages.zip(all).for_each(|(advantage, scaled)| *advantage = scaled);
}

/// Ends when somebody asks to stop; never, if nobody can any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
