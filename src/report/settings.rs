//! The settings of a run, how runs differ in them, and which runs share a line in the plots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};

use super::load::LoadedRun;
use super::series::{self, PlotPoint};
use super::svg::Colour;
use crate::error::InputError;

/// If there are more runs than this, they are drawn as means over seeds.
const MOST_LINES: usize = 8;

/// Every setting by its dotted key, as written in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSettings(BTreeMap<String, String>);

impl RunSettings {
    /// Reads config.toml; empty if there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path)
            .map_err(|e| InputError::new(path.display(), format!("cannot be read: {e}")))?;
        let table: Table = text.parse().map_err(|e| InputError::new(path.display(), format!("is not TOML: {e}")))?;
        let mut settings = Self::default();
        settings.flatten("", table);
        Ok(settings)
    }

    fn flatten(&mut self, prefix: &str, table: Table) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => self.flatten(&format!("{key}."), inner),
                Value::String(text) => drop(self.0.insert(key, text)),
                other => drop(self.0.insert(key, other.to_string())),
            }
        }
    }

    /// The value; "–" if the file does not have it.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("–", String::as_str)
    }

    /// The value as a number; 0 if it is not a number.
    pub fn number(&self, key: &str) -> f64 {
        self.get(key).parse().unwrap_or(0.0)
    }

    /// The model's name without the folders above it.
    pub fn model(&self) -> &str {
        let model = self.get("model");
        model.trim_end_matches('/').rsplit('/').next().unwrap_or(model)
    }
}

/// The keys in which the runs differ, in alphabetical order.
pub fn differences(runs: &[LoadedRun]) -> Vec<&str> {
    let keys: BTreeSet<&str> = runs.iter().flat_map(|run| run.settings.0.keys().map(String::as_str)).collect();
    keys.into_iter().filter(|key| runs.iter().any(|run| run.settings.get(key) != runs[0].settings.get(key))).collect()
}

/// Runs that are drawn as one line: a single run, or several that differ only in their seed.
pub struct Cohort<'a> {
    pub label: String,
    pub runs: Vec<&'a LoadedRun>,
    pub colour: Colour,
}

impl Cohort<'_> {
    /// A metric against the step: the mean of the runs.
    pub fn curve(&self, metric: &str) -> Vec<PlotPoint> {
        self.curve_of(|run| run.metrics.get(metric).iter().map(|&(step, y)| (step, step as f64, y)).collect())
    }

    /// What `of` takes from each run, as (step, x, y), averaged over the runs that have values.
    pub fn curve_of(&self, of: impl Fn(&LoadedRun) -> Vec<(u64, f64, f64)>) -> Vec<PlotPoint> {
        series::mean(&self.runs.iter().map(|run| of(run)).collect::<Vec<_>>())
    }

    /// The mean of `of` over the runs that have a value.
    pub fn mean(&self, of: impl Fn(&LoadedRun) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().filter_map(|run| of(run)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The sum of a metric over all steps of all runs.
    pub fn sum(&self, metric: &str) -> f64 {
        self.runs.iter().map(|run| run.metrics.sum(metric)).sum()
    }
}

/// One line per run; with more than eight runs, one line per set of runs that differ only in their seed.
pub fn cohorts(runs: &[LoadedRun]) -> Vec<Cohort<'_>> {
    let different = differences(runs);
    let keys: Vec<&str> = different.into_iter().filter(|key| *key != "seed").collect();
    let mut cohorts: Vec<Cohort> = Vec::new();
    for run in runs {
        let label = if runs.len() > MOST_LINES { label(run, &keys) } else { run.name.clone() };
        let same = |cohort: &&mut Cohort| runs.len() > MOST_LINES && cohort.label == label;
        match cohorts.iter_mut().find(same) {
            Some(cohort) => cohort.runs.push(run),
            None => cohorts.push(Cohort { colour: Colour::Run(cohorts.len()), label, runs: vec![run] }),
        }
    }
    for cohort in cohorts.iter_mut().filter(|cohort| cohort.runs.len() > 1) {
        cohort.label += &format!(" ({} runs)", cohort.runs.len());
    }
    cohorts
}

/// The name of the policy, and every other setting in which the runs differ.
fn label(run: &LoadedRun, keys: &[&str]) -> String {
    let other = keys.iter().filter(|key| **key != "curriculum.policy");
    let parts = other.map(|key| format!(", {key} = {}", run.settings.get(key)));
    run.settings.get("curriculum.policy").to_string() + &parts.collect::<String>()
}
