//! `dump-rl eval`: a base model, or the newest policy of a run, on the held-out rows.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use comfy_table::Table;
use engine::Engine;

use crate::checkpoint::Checkpoint;
use crate::config::{
    self,
    run::{RunConfig, SyncMode},
};
use crate::eval::{self, SourceScore};
use crate::progress;
use crate::setup::{Setup, WithEngine, with_engine};

/// Evaluates what `target` names: a configuration file (its base model) or a run's folder (its newest checkpoint).
pub async fn run(target: &Path, samples: Option<usize>) -> Result<()> {
    let is_run = target.is_dir();
    let file = if is_run { target.join("config.toml") } else { target.to_path_buf() };
    let sets: Vec<String> = samples.map(|k| format!("eval.samples={k}")).into_iter().collect();
    let mut config: RunConfig = config::load(&file, &sets)?;
    // Nothing is trained: the trainer's base weights need not be on the device.
    config.engine.sync = SyncMode::Alternate;
    let setup = Setup::load(config)?;
    let adapter = match is_run {
        true => Checkpoint::load_latest(target)?.trainer.adapter,
        false => setup.trainer()?.adapter()?,
    };
    let (base, samples) = (setup.base(), setup.config.eval.samples);
    let scores = with_engine(base, adapter, Evaluate { setup }).await?;
    println!("{}", table(&scores, samples));
    Ok(())
}

struct Evaluate {
    setup: Setup,
}

impl WithEngine for Evaluate {
    type Output = Vec<SourceScore>;

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<Self::Output> {
        eval::evaluate(&engine, &self.setup.test, &self.setup.tokenizer, &self.setup.eval_settings()).await
    }
}

fn table(scores: &[SourceScore], k: usize) -> Table {
    let (avg, pass) = (format!("avg@{k}"), format!("pass@{k}"));
    let header = ["distribution", "prompts", "reward", "answer reward", "format reward", &avg, &pass, "tokens"];
    let mut table = progress::table(header);
    for score in scores {
        let number = |x: f64| format!("{x:+.3}");
        let (avg, pass) = (format!("{:.3}", score.avg_at_k), format!("{:.3}", score.pass_at_k));
        table.add_row([
            score.source.clone(),
            score.prompts.to_string(),
            number(score.reward),
            number(score.answer_reward),
            number(score.format_reward),
            avg,
            pass,
            format!("{:.0}", score.length),
        ]);
    }
    table
}
