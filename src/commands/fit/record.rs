//! What a run's folder says about learning: the success of each group, what was practised, and the evaluations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::commands::replay::record;
use crate::config;
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::error::InputError;
use crate::files;
use crate::metric_names as names;
use crate::pipeline::dataset;
use crate::report::lines::json_lines;

/// Successes and completions of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub arm: usize,
    pub right: u64,
    pub completions: u64,
}

/// The groups of one policy step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    pub groups: Vec<Outcome>,
    /// The sum of mean |Â| over the groups of each arm, divided by the groups of a batch.
    pub practice: Vec<f64>,
}

/// A recorded run.
pub struct RecordedRun {
    pub folder: PathBuf,
    pub config: RunConfig,
    pub mixture: Mixture,
    pub steps: Vec<Step>,
    /// The share of right completions of each arm before the first step, and of how many.
    pub start: Vec<(f64, u64)>,
    /// The mean share over the arms, by step.
    pub evaluations: Vec<(u64, f64)>,
    /// Mean tokens of a completion of each arm; `None` of one that was never drawn.
    pub tokens: Vec<Option<f64>>,
}

impl RecordedRun {
    /// Reads `config.toml`, `curriculum.jsonl` and `metrics.jsonl` of a run.
    ///
    /// # Errors
    /// A file that is missing or wrong; a run that is not finished, or has no evaluation of the base model.
    pub fn load(folder: &Path) -> Result<Self, InputError> {
        let config: RunConfig = config::load(&folder.join("config.toml"), &[])?;
        let mixture = dataset::mixture(&config)?;
        let (start, evaluations) = evaluations(folder, &config, &mixture)?;
        let (steps, tokens) = steps(folder, &config, &mixture)?;
        Ok(Self { folder: folder.to_path_buf(), config, mixture, steps, start, evaluations, tokens })
    }

    pub fn groups(&self) -> usize {
        self.steps.iter().map(|step| step.groups.len()).sum()
    }
}

type Steps = (Vec<Step>, Vec<Option<f64>>);

fn steps(folder: &Path, config: &RunConfig, mixture: &Mixture) -> Result<Steps, InputError> {
    let path = files::plain_or_compressed(&folder.join("curriculum.jsonl"));
    let arms: HashMap<String, usize> = mixture.sources.iter().cloned().zip(0..).collect();
    let (mut steps, mut tokens, mut completions) = (Vec::new(), vec![0; mixture.arms()], vec![0; mixture.arms()]);
    for recorded in record::read(&path)? {
        let mut step = Step { groups: Vec::new(), practice: vec![0.0; mixture.arms()] };
        for group in recorded.observations {
            if !arms.contains_key(&group.source) {
                let problem = format!("names {:?}, which config.toml does not", group.source);
                return Err(InputError::new(path.display(), problem));
            }
            let group = group.observation(&arms);
            let (right, of) = group.successes(config.curriculum.success_above);
            step.groups.push(Outcome { arm: group.arm, right, completions: of });
            step.practice[group.arm] += group.mean_abs_advantage().unwrap_or(0.0) / config.batch_size as f64;
            tokens[group.arm] += group.tokens;
            completions[group.arm] += of;
        }
        steps.push(step);
    }
    let mean = |(tokens, of): (u64, u64)| (of > 0).then(|| tokens as f64 / of as f64);
    Ok((steps, tokens.into_iter().zip(completions).map(mean).collect()))
}

type Evaluations = (Vec<(f64, u64)>, Vec<(u64, f64)>);

fn evaluations(folder: &Path, config: &RunConfig, mixture: &Mixture) -> Result<Evaluations, InputError> {
    let path = folder.join("metrics.jsonl");
    let (prompts, samples) = (config.eval.prompts as u64, config.eval.samples as u64);
    let (mut start, mut all, mut last) = (None, Vec::new(), None);
    json_lines(&path, |line: Value| {
        last = line[names::STEP].as_u64();
        let share = |source: &String| line[format!("{}{samples}", names::avg_at(source))].as_f64();
        let shares: Option<Vec<f64>> = mixture.sources.iter().map(share).collect();
        if let (Some(step), Some(shares)) = (line[names::STEP].as_u64(), shares) {
            all.push((step, shares.iter().sum::<f64>() / shares.len() as f64));
            start.get_or_insert((step, shares));
        }
        Ok(())
    })?;
    if last != Some(config.max_steps) {
        return Err(InputError::new(folder.display(), "the run is not finished; train --resume goes on with it"));
    }
    match start {
        Some((0, shares)) => Ok((shares.into_iter().map(|share| (share, prompts * samples)).collect(), all)),
        _ => Err(InputError::new(path.display(), "has no evaluation at step 0; runs need eval.interval above 0")),
    }
}
