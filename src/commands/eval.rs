//! `dump-rl eval`: a base model, or the newest policy of a run, on the held-out rows.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use comfy_table::Table;
use engine::Engine;

use crate::config;
use crate::config::engine::SyncMode;
use crate::config::resolve::EngineChoice;
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::pipeline::checked::Checked;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::learner::eval;
use crate::pipeline::setup::Setup;
use crate::pipeline::start_engine::{WithEngine, with_engine};
use crate::run_dir::checkpoint::latest_policy;
use crate::run_dir::score::SourceScore;
use crate::run_dir::{base_model, fingerprints};
use crate::{table, terminal};

/// Evaluates what `target` names: a configuration file (its base model) or a run's folder (its newest checkpoint). `model` is where
/// the base model is now, if not where the configuration has it.
pub async fn run(target: &Path, samples: Option<usize>, model: Option<&str>) -> Result<()> {
    let is_run = target.is_dir();
    let file = if is_run { target.join("config.toml") } else { target.to_path_buf() };
    let samples = samples.map(|k| format!("eval.samples={k}"));
    let sets: Vec<String> = samples.into_iter().chain(model.map(|model| format!("model={model}"))).collect();
    let mut config: RunConfig = config::load(&file, &sets)?;
    // Nothing is trained, so the trainer's base weights need not be on the device.
    config.engine.sync = SyncMode::Alternate;
    if is_run {
        base_model::check_here(&config.model, "--model DIR")?;
    }
    let setup = Setup::for_evaluation(config)?;
    if is_run {
        fingerprints::check_model(target, &setup.base.folder)?;
    }
    if setup.inputs.test.sources.is_empty() {
        return Err(InputError::new(
            "data",
            "there are no test rows to evaluate on; add some with data.test, data.test_files or data.test_share",
        )
        .into());
    }
    let adapter = match is_run {
        true => latest_policy(target)?.1,
        false => setup.base.trainer()?.adapter()?,
    };
    let Setup { inputs, base } = setup;
    let samples = inputs.config.eval.samples;
    let evaluate = Evaluate { name: base.resolved.engine, inputs };
    let scores = with_engine(base, adapter, evaluate).await?;
    terminal::give(|out| writeln!(out, "{}", table(&scores, samples)))
}

struct Evaluate {
    name: EngineChoice,
    inputs: Arc<Inputs>,
}

impl WithEngine for Evaluate {
    type Output = Vec<SourceScore>;

    async fn call<E: Engine>(self, engine: Arc<E>) -> Result<Self::Output> {
        let engine = Arc::new(Checked::new(engine, self.name, &self.inputs));
        eval::evaluate(&engine, &self.inputs, &Arc::default()).await
    }
}

fn table(scores: &[SourceScore], k: usize) -> Table {
    let (avg, pass) = (format!("avg@{k}"), format!("pass@{k}"));
    let header = ["distribution", "prompts", "reward", "answer reward", "format reward", &avg, &pass, "tokens"];
    let mut table = table::table(header);
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
