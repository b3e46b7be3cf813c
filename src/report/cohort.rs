//! How runs differ in their settings, and which runs share a line in the plots.

use std::collections::BTreeSet;

use super::load::LoadedRun;
use super::series::{self, PlotPoint};
use super::svg::Colour;

/// If there are more runs than this, they are drawn as means over seeds.
const MOST_LINES: usize = 8;

/// The keys in which the runs differ, in alphabetical order.
pub fn differences(runs: &[LoadedRun]) -> Vec<&str> {
    let keys: BTreeSet<&str> = runs.iter().flat_map(|run| run.settings.keys()).collect();
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
