//! `dump-rl train`: a whole run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use engine::decoder::DecoderConfig;
use engine::{Engine, Quantization};
use tokio::sync::watch;

use crate::checkpoint::Checkpoint;
use crate::config::loss::RolloutIs;
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::learner::{End, Learner};
use crate::pipeline::{self, Shared, Stages};
use crate::predict;
use crate::progress;
use crate::report;
use crate::run_dir::RunDir;
use crate::run_log;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::setup::{Setup, WithEngine, engine_precision, with_engine};
use crate::train::trainer::Trainer;
use crate::train::worker::TrainerHandle;

/// Trains in `out`, from the start or from its newest checkpoint, until the last step or until `stop` turns true.
///
/// # Errors
/// Wrong input before anything is written; the first failure of any stage afterwards.
pub async fn run(config: RunConfig, out: &Path, resume: bool, stop: watch::Receiver<bool>) -> Result<()> {
    let since = Instant::now();
    // Before the model is read, which takes long where it is large.
    let checkpoint = if resume { Some(Checkpoint::load_latest(out)?) } else { None };
    match &checkpoint {
        Some(_) => RunDir::check_same(out, &config)?,
        None => RunDir::check_free(out)?,
    }
    let (end, shared) = run_in(Setup::for_training(config)?, out, checkpoint, stop).await?;
    if let End::Finished { first: Some(first), last: Some(last) } = &end {
        run_log::say(&format!("\n{}", progress::final_table(first, last, &shared.scheduler().ledger().trained)));
    }
    let page = out.join("report.html");
    if let Err(error) = report::run(&[out.to_path_buf()], &page) {
        tracing::warn!(%error, "no report was written");
    }
    run_log::say(&format!("done in {:.0} s; see {}", since.elapsed().as_secs_f64(), page.display()));
    Ok(())
}

/// Goes on from `checkpoint`, or begins, in a folder that was found fit for it; without the table and the report at the end.
pub(super) async fn run_in(
    setup: Setup,
    out: &Path,
    checkpoint: Option<Checkpoint>,
    stop: watch::Receiver<bool>,
) -> Result<(End, Arc<Shared>)> {
    let trainer = match &checkpoint {
        Some(checkpoint) => restore(setup.trainer()?, checkpoint, out)?,
        None => setup.trainer()?,
    };
    let shared = Arc::new(Shared::new(scheduler(&setup, checkpoint.as_ref(), out)?));
    run_log::say(&describe(&setup.config, &setup.decoder, &setup.train.sizes(), out));
    warn_of_packed_weights(&setup.config);
    let adapter = trainer.adapter()?;
    let base = setup.base();
    let start = Start { setup, trainer, out: out.to_path_buf(), shared, checkpoint, stop };
    with_engine(base, adapter, start).await
}

/// An engine of other weights than the trainer's samples from another policy than the one that is trained.
fn warn_of_packed_weights(config: &RunConfig) {
    if config.engine.quantization != Quantization::None && config.loss.rollout_is == RolloutIs::None {
        tracing::warn!(
            "engine.quantization makes the engine's policy differ from the trainer's, and loss.rollout_is = \"none\" corrects nothing: \
             use \"truncate\" or \"mask\""
        );
    }
}

fn restore(trainer: Trainer, checkpoint: &Checkpoint, out: &Path) -> Result<Trainer> {
    let place = out.join("checkpoints").join(format!("step_{}", checkpoint.step()));
    trainer.restore(&checkpoint.trainer).map_err(|e| InputError::new(place.display(), e).into())
}

fn scheduler(setup: &Setup, checkpoint: Option<&Checkpoint>, out: &Path) -> Result<Scheduler> {
    let scheduler = Scheduler::new(SchedulerConfig::of(&setup.config), setup.mixture());
    let mut scheduler = scheduler.map_err(InputError::in_curriculum)?;
    if let Some(checkpoint) = checkpoint {
        let restored = scheduler.restore(checkpoint.scheduler.clone());
        restored.map_err(|problem| InputError::new(out.display(), problem))?;
    }
    Ok(scheduler)
}

/// What is left to do once the engine runs.
struct Start {
    setup: Setup,
    trainer: Trainer,
    out: PathBuf,
    shared: Arc<Shared>,
    checkpoint: Option<Checkpoint>,
    stop: watch::Receiver<bool>,
}

impl WithEngine for Start {
    type Output = (End, Arc<Shared>);

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<Self::Output> {
        let Self { setup, trainer, out, shared, checkpoint, stop } = self;
        let config = &setup.config;
        // Only now: a run whose engine cannot start leaves no folder that looks like one.
        let run = match &checkpoint {
            Some(checkpoint) => RunDir::resume(&out, config, checkpoint.step())?,
            None => RunDir::create(&out, config)?,
        };
        let log = out.join("run.log");
        run_log::open(&log).map_err(|e| InputError::new(log.display(), e))?;
        let step = shared.scheduler().step();
        let adapter = trainer.adapter()?;
        let published = BTreeMap::from([(step, adapter.hash.clone())]);
        // The engine loaded the adapter as that of step 0; after a resume it has to know its true step.
        if step > 0 {
            let loaded = engine.publish(step, adapter.clone()).await?;
            anyhow::ensure!(
                loaded.adapter == adapter.hash,
                "the engine loaded {}, not the checkpoint's adapter",
                loaded.adapter
            );
        }
        let workers = match config.pipeline.rollout_workers {
            0 => engine.concurrency(config.group_size),
            workers => workers,
        };
        let stages = Stages {
            engine: engine.clone(),
            data: setup.train.clone(),
            tokenizer: setup.tokenizer.clone(),
            sampling: setup.sampling(),
            reward: setup.reward_settings(),
            batch_size: config.batch_size,
            group_size: config.group_size,
            workers,
        };
        let learner = Learner {
            engine,
            trainer: TrainerHandle::spawn(trainer)?,
            shared: shared.clone(),
            run,
            tokenizer: setup.tokenizer.clone(),
            train_data: setup.train.clone(),
            test_data: setup.test.clone(),
            sampling: setup.sampling(),
            eval: config.eval.clone(),
            eval_settings: setup.eval_settings(),
            ckpt: config.ckpt.clone(),
            max_steps: config.max_steps,
            scale: config.advantage.scale,
            precision: engine_precision(config, &setup.decoder),
            quantization: config.engine.quantization,
            sync: setup.share.sync,
            max_off_policy_steps: config.pipeline.max_off_policy_steps,
            checks_engine: config.engine.is_checked(),
            skipped_in_a_row: checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.skipped_in_a_row),
            first_eval: checkpoint.and_then(|checkpoint| checkpoint.first_eval),
            seed: config.seed,
            published,
        };
        Ok((pipeline::run(stages, shared.clone(), learner, stop).await?, shared))
    }
}

/// What will run, on distributions of these sizes.
pub(super) fn describe(config: &RunConfig, model: &DecoderConfig, sizes: &[usize], out: &Path) -> String {
    let rows: usize = sizes.iter().sum();
    let millions = model.parameters() as f64 / 1e6;
    format!(
        "model    {} ({:.*} M parameters; LoRA rank {} on {:.2} M)\ndata     {rows} rows in {} distributions\n\
         run      {} steps of {} prompts × {} completions, curriculum {}, at most {} off-policy steps\n\
         engine   {:?} ({:?}) in {:?}{} on {:?}, up to {} sequences at a time\nout      {}",
        config.model.display(),
        if millions < 1000.0 { 2 } else { 0 },
        millions,
        config.lora.rank,
        predict::adapter_parameters(config, model) as f64 / 1e6,
        sizes.len(),
        config.max_steps,
        config.batch_size,
        config.group_size,
        config.curriculum.policy,
        config.pipeline.max_off_policy_steps,
        config.engine.resolved_kind(model),
        config.engine.kind,
        engine_precision(config, model),
        packed(config.engine.quantization),
        config.engine.device,
        config.engine.max_sequences,
        out.display(),
    )
}

fn packed(quantization: Quantization) -> String {
    match quantization {
        Quantization::None => String::new(),
        packed => format!(", packed as {packed:?}"),
    }
}
