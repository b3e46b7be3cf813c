//! Reads the folder of a run line by line and keeps only what the report draws, so that long runs need little memory.
//!
//! A run that is still active is read as far as it is written: files may be missing, and the last line may be
//! incomplete (without a line break). Any other line that is not JSON of the expected form is an error with its file
//! and line.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::lines::json_lines;
use super::rollouts::SampledRollouts;
use super::settings::RunSettings;
use crate::error::InputError;
use crate::files;
use crate::metric_names as names;

/// Everything that the report knows of one run.
pub struct LoadedRun {
    /// The name of the run in the report.
    pub name: String,
    pub settings: RunSettings,
    /// The distributions, in the order of first appearance: by convention from easy to hard.
    pub sources: Vec<String>,
    pub metrics: Metrics,
    /// The number of drawn groups by distribution and outcome (`trained`, or the reason why they were dropped).
    pub outcomes: BTreeMap<(String, String), u64>,
    /// What the curriculum observed, by step and distribution.
    pub observed: BTreeMap<(u64, String), ObservedSums>,
    pub rollouts: SampledRollouts,
}

/// Sums over the completions of one distribution that the curriculum observed in one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ObservedSums {
    pub completions: u64,
    pub reward: f64,
    pub tokens: u64,
}

/// metrics.jsonl by column.
#[derive(Default)]
pub struct Metrics {
    /// Every step that has a line.
    pub steps: Vec<u64>,
    /// Names in the order of first appearance.
    pub names: Vec<String>,
    columns: HashMap<String, Vec<(u64, f64)>>,
}

impl Metrics {
    /// Steps and values of one metric; empty if it was never logged. Values that are not finite are left out.
    pub fn get(&self, name: &str) -> &[(u64, f64)] {
        self.columns.get(name).map_or(&[], Vec::as_slice)
    }

    /// The newest value.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.get(name).last().map(|(_, value)| *value)
    }

    /// The sum over all steps; 0 if it was never logged.
    pub fn sum(&self, name: &str) -> f64 {
        self.get(name).iter().map(|(_, value)| value).sum()
    }

    /// The name of `eval/<source>/avg@k`, for any k.
    pub fn avg_name(&self, source: &str) -> Option<&str> {
        let start = names::avg_at(source);
        self.names.iter().find(|name| name.starts_with(&start)).map(String::as_str)
    }

    fn add(&mut self, line: &Map<String, Value>) -> Result<(), String> {
        let step = line.get(names::STEP).and_then(Value::as_u64).ok_or(r#"expected a whole number under "step""#)?;
        self.steps.push(step);
        for (name, value) in line.iter().filter(|(name, _)| *name != names::STEP) {
            let Some(value) = value.as_f64() else { continue };
            if !self.columns.contains_key(name) {
                self.names.push(name.clone());
            }
            self.columns.entry(name.clone()).or_default().push((step, value));
        }
        Ok(())
    }

    /// The distributions that any metric is about, in the order of first appearance.
    fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = Vec::new();
        for name in &self.names {
            let Some(source) = names::source_of(name) else { continue };
            if !sources.iter().any(|known| known == source) {
                sources.push(source.to_string());
            }
        }
        sources
    }
}

#[derive(Deserialize)]
struct DecisionLine {
    decisions: Vec<Decided>,
}

#[derive(Deserialize)]
struct Decided {
    source: String,
    outcome: String,
}

#[derive(Deserialize)]
struct ObservationLine {
    step: u64,
    observations: Vec<ObservedGroup>,
}

#[derive(Deserialize)]
struct ObservedGroup {
    source: String,
    rewards: Vec<Option<f64>>,
    #[serde(default)]
    tokens: u64,
}

/// Reads the run in `path`, with at most `samples` sample completions.
///
/// # Errors
/// A folder without a run; a file that cannot be read; a line that is not of the expected form, as `file:line`.
pub fn run(path: &Path, samples: usize) -> Result<LoadedRun, InputError> {
    if !["metrics.jsonl", "config.toml"].iter().any(|name| path.join(name).is_file()) {
        let problem = "holds no run: expected a folder that `dump-rl train` wrote, with config.toml and metrics.jsonl";
        return Err(InputError::new(path.display(), problem));
    }
    let settings = RunSettings::read(&path.join("config.toml"))?;
    let mut metrics = Metrics::default();
    json_lines(&path.join("metrics.jsonl"), |line: Map<String, Value>| metrics.add(&line))?;
    let sources = metrics.sources();
    Ok(LoadedRun {
        name: path.display().to_string(),
        settings,
        outcomes: outcomes(&files::plain_or_compressed(&path.join("decisions.jsonl")))?,
        observed: observed(&files::plain_or_compressed(&path.join("curriculum.jsonl")))?,
        rollouts: SampledRollouts::read(&path.join("rollouts"), samples, sources.len())?,
        sources,
        metrics,
    })
}

fn outcomes(path: &Path) -> Result<BTreeMap<(String, String), u64>, InputError> {
    let mut outcomes = BTreeMap::new();
    json_lines(path, |line: DecisionLine| {
        for decided in line.decisions {
            *outcomes.entry((decided.source, decided.outcome)).or_default() += 1;
        }
        Ok(())
    })?;
    Ok(outcomes)
}

fn observed(path: &Path) -> Result<BTreeMap<(u64, String), ObservedSums>, InputError> {
    let mut observed: BTreeMap<(u64, String), ObservedSums> = BTreeMap::new();
    json_lines(path, |line: ObservationLine| {
        for group in line.observations {
            let sums = observed.entry((line.step, group.source)).or_default();
            sums.tokens += group.tokens;
            for reward in group.rewards.into_iter().flatten() {
                sums.completions += 1;
                sums.reward += reward;
            }
        }
        Ok(())
    })?;
    Ok(observed)
}
