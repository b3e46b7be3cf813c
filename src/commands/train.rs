//! `dump-rl train`: a whole run.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use engine::decoder::DecoderConfig;
use engine::{Engine, Quantization};

use crate::config::engine::EngineKind;
use crate::config::loss::RolloutIs;
use crate::config::resolve::{EngineChoice, Resolved};
use crate::config::run::RunConfig;
use crate::memory::predict;
use crate::pipeline::Run;
use crate::pipeline::learner::End;
use crate::pipeline::setup::Setup;
use crate::pipeline::start_engine::{WithEngine, with_engine};
use crate::report;
use crate::run_dir::start::{Resume, StartFrom};
use crate::run_dir::{METRICS, REPORT, RunDir, log, progress};
use crate::signals::Stop;
use crate::train::worker::TrainerHandle;

/// Trains in `out` until the last step or until it is asked to stop. With `resume` it goes on from a checkpoint; where there is none, it
/// begins.
///
/// # Errors
/// Wrong input before anything is written; the first failure of any stage afterwards.
pub async fn run(config: RunConfig, out: &Path, resume: Option<Resume>, stop: Stop) -> Result<()> {
    let since = Instant::now();
    // Before the model is read, which takes long where it is large.
    let from = match resume {
        Some(resume) => StartFrom::resume(out, &config, resume)?,
        None => StartFrom::new_run(out)?,
    };
    let config = RunDir::resumed(out, config)?;
    let RunResult { end, trained } = run_in(Setup::for_training(config)?, out, from, stop).await?;
    if let End::Finished { first: Some(first), last: Some(last) } = &end {
        log::say(&format!("\n{}", progress::final_table(first, last, &trained)));
    }
    let seconds = since.elapsed().as_secs_f64();
    if !out.join(METRICS).exists() {
        return Ok(());
    }
    let page = out.join(REPORT);
    if let Err(error) = report::run(&[out.to_path_buf()], &page) {
        tracing::warn!(%error, "no report was written");
    }
    log::say(&format!("done in {seconds:.0} s; see {}", page.display()));
    Ok(())
}

/// How a run ended, and how many groups of each distribution it trained on.
pub(super) struct RunResult {
    end: End,
    trained: Vec<u64>,
}

/// The same in a folder that was found fit, without the table and the report at the end.
pub(super) async fn run_in(setup: Setup, out: &Path, from: StartFrom, stop: Stop) -> Result<RunResult> {
    let run = Run::prepare(&setup, out, from)?;
    let Setup { inputs, base } = setup;
    log::say(&describe(&inputs.config, &inputs.decoder, &base.resolved, &inputs.train.sizes(), out));
    if let Some(left_out) = inputs.left_out.describe() {
        log::say(&left_out);
    }
    warn_of_packed_weights(&inputs.config);
    let adapter = run.adapter().clone();
    with_engine(base, adapter, Start { run, stop }).await
}

struct Start {
    run: Run<TrainerHandle>,
    stop: Stop,
}

impl WithEngine for Start {
    type Output = RunResult;

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<RunResult> {
        let scheduler = self.run.scheduler();
        let end = self.run.start(engine, self.stop.heed()).await?;
        let trained = scheduler.lock().ledger().trained.clone();
        Ok(RunResult { end, trained })
    }
}

/// An engine with other weights than the trainer's samples from another policy than the one that is trained.
fn warn_of_packed_weights(config: &RunConfig) {
    if config.engine.quantization != Quantization::None && config.loss.rollout_is == RolloutIs::None {
        tracing::warn!(
            "engine.quantization makes the engine's policy differ from the trainer's, and loss.rollout_is = \"none\" corrects nothing: \
             use \"truncate\" or \"mask\""
        );
    }
}

/// What will run, on distributions of these sizes.
pub(super) fn describe(
    config: &RunConfig,
    model: &DecoderConfig,
    resolved: &Resolved,
    sizes: &[usize],
    out: &Path,
) -> String {
    let rows: usize = sizes.iter().sum();
    let millions = model.parameters() as f64 / 1e6;
    format!(
        "model    {} ({:.*} M parameters; LoRA rank {}: {:.2} M parameters are trained)\ndata     {} in {}\n\
         run      {} of {} × {}, curriculum {}, at most {}\n\
         engine   {}, {}{}, {}\nout      {}",
        config.model.display(),
        if millions < 1000.0 { 2 } else { 0 },
        millions,
        config.lora.rank,
        predict::adapter_parameters(config, model) as f64 / 1e6,
        count(rows as u64, "row"),
        count(sizes.len() as u64, "distribution"),
        count(config.max_steps, "step"),
        count(config.batch_size as u64, "prompt"),
        count(config.group_size as u64, "completion"),
        config.curriculum.policy,
        count(config.pipeline.max_off_policy_steps, "off-policy step"),
        engine_name(config.engine.kind, resolved.engine),
        configured(resolved.engine_precision),
        packed(config.engine.quantization),
        place(config, resolved),
        out.display(),
    )
}

/// Where the engine samples, and how much at a time.
fn place(config: &RunConfig, resolved: &Resolved) -> String {
    let engine = &config.engine;
    let sequences = count(engine.max_sequences as u64, "sequence");
    if resolved.engine != EngineChoice::Remote {
        return format!("{}; up to {sequences} at a time", configured(resolved.device));
    }
    let mut places: Vec<String> = engine.endpoints.iter().take(NAMED).map(|it| it.url.clone()).collect();
    if engine.endpoints.len() > NAMED {
        places.push(format!("{} more", engine.endpoints.len() - NAMED));
    }
    if !engine.remote.endpoints_file.as_os_str().is_empty() {
        places.push(format!("those in {}", engine.remote.endpoints_file.display()));
    }
    format!(
        "on {}; up to {sequences} at a time on each; training on {}",
        places.join(", "),
        configured(resolved.device)
    )
}

/// How many servers are named.
const NAMED: usize = 4;

/// "1 step", "2 steps".
fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn engine_name(kind: EngineKind, choice: EngineChoice) -> String {
    match kind {
        EngineKind::Auto => format!("{choice} (chosen by auto)"),
        EngineKind::Native | EngineKind::Mistralrs | EngineKind::Remote => choice.to_string(),
    }
}

/// A value's name as in configuration files. They write these enums in lower case.
fn configured(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn packed(quantization: Quantization) -> String {
    match quantization {
        Quantization::None => String::new(),
        packed => format!(", packed as {}", configured(packed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_described_in_the_words_of_its_configuration() {
        assert_eq!(engine_name(EngineKind::Auto, EngineChoice::Native), "native (chosen by auto)");
        assert_eq!(engine_name(EngineKind::Mistralrs, EngineChoice::Mistralrs), "mistralrs");
        assert_eq!(
            (packed(Quantization::None), packed(Quantization::Q8_0)),
            (String::new(), ", packed as q8_0".into())
        );
        assert_eq!((count(1, "step"), count(0, "step")), ("1 step".into(), "0 steps".into()));
    }
}
