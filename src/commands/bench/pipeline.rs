//! `dump-rl bench pipeline`: whole steps of a run, and where their time goes.
//!
//! It makes a run as `dump-rl train` does, in a temporary folder and without evaluations, and reads the run's metrics. With random
//! weights every completion earns the same reward, and completions without an advantage are not trained on. Then training steps
//! are complete only with a KL term or an entropy bonus in the configuration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;
use serde_json::Value;

use super::card::{MemoryWatch, shown_mb};
use super::{Subject, report};
use crate::commands::train;
use crate::config::resolve::Sharing;
use crate::config::run::RunConfig;
use crate::metric_names as names;
use crate::pipeline::setup::Setup;
use crate::run_dir::start::StartFrom;
use crate::signals::Stop;
use crate::table;

/// One step.
#[derive(Debug, Clone, Serialize)]
struct StepResult {
    #[serde(flatten)]
    subject: Subject,
    /// What `engine.sync` was resolved to: how trainer and engine share the device.
    sync: Sharing,
    step: u64,
    sequences: usize,
    /// Always `null`: prompts differ in length.
    prompt_tokens: Option<usize>,
    /// The longest completion allowed. The mean of those sampled is `mean_new_tokens`.
    new_tokens: usize,
    mean_new_tokens: f64,
    /// The whole step, from the end of the previous one.
    seconds: f64,
    generate_seconds: f64,
    train_seconds: f64,
    publish_seconds: f64,
    /// Sampled tokens divided by `seconds`.
    tokens_per_s: f64,
    peak_rss_mb: f64,
    /// Peak of the memory in use on the card over all steps. `null` without a card.
    peak_device_mb: Option<f64>,
}

/// Makes `max_steps` steps, or fewer if it is stopped, prints a table and writes `json`.
///
/// # Errors
/// As `train`.
pub async fn run(mut config: RunConfig, json: Option<&Path>, stop: Stop) -> Result<()> {
    (config.eval.interval, config.ckpt.interval) = (0, 0);
    let (memory, folder) = (MemoryWatch::start(&config.engine), Folder::new());
    let setup = Setup::for_training(config.clone())?;
    let (subject, sharing) = (Subject::new("pipeline", &setup.base), setup.base.resolved.sharing);
    train::run_in(setup, &folder.0, StartFrom::Nothing, stop).await?;
    let lines = fs::read_to_string(folder.0.join("metrics.jsonl")).context("reading the run's metrics")?;
    let mut measured = Vec::new();
    for line in lines.lines() {
        let step = step(&config, subject.clone(), sharing, &serde_json::from_str(line)?);
        measured.push(StepResult { peak_device_mb: memory.peak_mb(), ..step });
    }
    report(json, &measured, table)
}

/// Removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("dump-rl-bench-pipeline-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A line of the run's metrics.
fn step(config: &RunConfig, subject: Subject, sharing: Sharing, line: &Value) -> StepResult {
    let number = |name: &str| line[name].as_f64().unwrap_or(0.0);
    StepResult {
        subject,
        sync: sharing,
        step: number(names::STEP) as u64,
        sequences: config.batch_size * config.group_size,
        prompt_tokens: None,
        new_tokens: config.engine.max_new_tokens,
        mean_new_tokens: number(names::MEAN_LENGTH),
        seconds: number(names::TIME_STEP),
        generate_seconds: number(names::TIME_GENERATE),
        train_seconds: number(names::TIME_TRAIN),
        publish_seconds: number(names::TIME_PUBLISH),
        tokens_per_s: number(names::TOKENS_PER_S),
        peak_rss_mb: number(names::PEAK_MEMORY),
        peak_device_mb: None,
    }
}

fn table(measured: &[StepResult]) -> Table {
    let mut table = table::table([
        "step",
        "sync",
        "sequences",
        "mean tokens",
        "step s",
        "generate s",
        "train s",
        "publish s",
        "tok/s",
        "peak MB",
        "card MB",
    ]);
    for m in measured {
        table.add_row([
            m.step.to_string(),
            m.sync.name().to_string(),
            m.sequences.to_string(),
            format!("{:.0}", m.mean_new_tokens),
            format!("{:.2}", m.seconds),
            format!("{:.2}", m.generate_seconds),
            format!("{:.2}", m.train_seconds),
            format!("{:.3}", m.publish_seconds),
            format!("{:.0}", m.tokens_per_s),
            format!("{:.0}", m.peak_rss_mb),
            shown_mb(m.peak_device_mb),
        ]);
    }
    table
}
