//! The outcome of groups, and statistics of completions.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Report;
use crate::metric_names as names;
use crate::report::cohort::Cohort;
use crate::report::html;
use crate::report::load::LoadedRun;
use crate::report::rollouts::{CompletionSizes, MOST_FILES};
use crate::report::series::{PlotPoint, bins, gains};
use crate::report::svg::bars::{self, Stack};
use crate::report::svg::{Colour, Size, escape};

/// The largest number of bars of a stacked chart.
const BARS: usize = 40;

pub fn body(report: &Report) -> String {
    [solved(report), filtered(report), outcomes(report), histograms(report), completions(report)].concat()
}

/// The means of several curves over ranges of steps, stacked.
fn stacks(curves: &[Vec<PlotPoint>]) -> Vec<Stack> {
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |points: &[PlotPoint]| points.iter().map(|p| p.y).sum::<f64>() / points.len() as f64;
    let one = |range: Range<usize>| Stack {
        steps: (curves[0][range.start].x as u64, curves[0][range.end - 1].x as u64),
        parts: curves.iter().map(|curve| mean(&curve[range.clone()])).collect(),
    };
    bins(length, BARS).map(one).collect()
}

fn solved(report: &Report) -> String {
    let parts =
        [("all right", Colour::Part(2)), ("some right, some wrong", Colour::Part(0)), ("none right", Colour::Part(3))];
    let metrics = [names::SOLVED_ALL, names::SOLVED_SOME, names::SOLVED_NONE];
    let caption = "Groups trained on, in percent. Where all completions are right, or all are equally wrong, there is nothing to \
        learn.";
    let stacks = |cohort: &Cohort| stacks(&metrics.map(|metric| percentages(cohort.curve(metric))));
    super::stacked_figure(report, "Solved and unsolved groups", caption, &parts, Some(100.0), stacks)
}

fn percentages(points: Vec<PlotPoint>) -> Vec<PlotPoint> {
    points.into_iter().map(|p| PlotPoint::new(p.x, 100.0 * p.y)).collect()
}

/// Groups left out in each step, by reason; empty if there are none.
fn filtered(report: &Report) -> String {
    let parts = [
        ("all right", Colour::Part(2)),
        ("all equally wrong", Colour::Part(3)),
        ("too old", Colour::Part(1)),
        ("failed", Colour::Part(4)),
    ];
    let metrics = [
        names::FILTERED_SOLVED_ALL,
        names::FILTERED_SOLVED_NONE,
        names::OFF_POLICY_DROPPED,
        names::GROUPS_FAILED,
        names::GROUPS_UNGRADED,
    ];
    let gained = |cohort: &Cohort, metric: &str| {
        cohort.curve_of(|run| {
            gains(run.metrics.get(metric)).into_iter().map(|(step, n)| (step, step as f64, n)).collect()
        })
    };
    let stacks = |cohort: &Cohort| stacks(&metrics.map(|metric| gained(cohort, metric)));
    let caption = "Mean number of groups left out per step, by reason. Other groups were drawn instead.";
    super::stacked_figure(report, "Groups left out", caption, &parts, None, stacks)
}

/// Tables of the outcomes of all drawn groups, for the runs that left groups out.
fn outcomes(report: &Report) -> String {
    let cohorts = report.titles().zip(&report.cohorts);
    let tables = cohorts.map(|(title, cohort)| (title, outcome_table(report, cohort)));
    html::figure("What became of the drawn groups", "Groups that ended, by distribution.", &html::grid(true, tables))
}

fn outcome_table(report: &Report, cohort: &Cohort) -> String {
    let kinds: BTreeSet<&str> = cohort
        .runs
        .iter()
        .flat_map(|run| run.outcomes.keys().map(|(_, kind)| kind.as_str()))
        .filter(|k| *k != "trained")
        .collect();
    if kinds.is_empty() {
        return String::new();
    }
    let kinds: Vec<&str> = std::iter::once("trained").chain(kinds).collect();
    let count = |source: &str, kind: &str| -> u64 {
        let key = (source.to_string(), kind.to_string());
        cohort.runs.iter().filter_map(|run| run.outcomes.get(&key)).sum()
    };
    let row = |source: &String| {
        let counts: Vec<u64> = kinds.iter().map(|kind| count(source, kind)).collect();
        let all = std::iter::once(counts.iter().sum::<u64>()).chain(counts.iter().copied());
        std::iter::once(escape(source)).chain(all.map(|n| n.to_string())).collect()
    };
    let names = kinds.iter().map(|kind| escape(&kind.replace('_', " ")));
    let head: Vec<String> = ["distribution", "drawn"].map(String::from).into_iter().chain(names).collect();
    html::table(&head, &report.sources.iter().map(row).collect::<Vec<_>>())
}

/// Rewards and lengths of the first and the last fifth of the steps.
fn histograms(report: &Report) -> String {
    let pooled = |cohort: &Cohort, of: fn(&CompletionSizes) -> &Vec<f64>| -> [Vec<f64>; 2] {
        let all = |which: fn(&LoadedRun) -> &CompletionSizes| {
            cohort.runs.iter().flat_map(|run| of(which(run))).copied().collect()
        };
        [all(|run| &run.rollouts.early), all(|run| &run.rollouts.late)]
    };
    let chart = |cohort: &Cohort, name: &str, of: fn(&CompletionSizes) -> &Vec<f64>| {
        let [early, late] = pooled(cohort, of);
        let sets = [("first fifth".to_string(), early.as_slice()), ("last fifth".to_string(), late.as_slice())];
        bars::histogram(name, Size::SMALL, &sets)
    };
    let panels = |what: &str, of: fn(&CompletionSizes) -> &Vec<f64>| {
        let titles =
            report.titles().map(|run| if run.is_empty() { what.to_string() } else { format!("{what}, {run}") });
        titles.zip(report.cohorts.iter().map(|cohort| chart(cohort, what, of))).collect::<Vec<_>>()
    };
    let (rewards, lengths) = (panels("reward", |drawn| &drawn.rewards), panels("tokens", |drawn| &drawn.lengths));
    let grids = if report.cohorts.len() > 1 {
        html::grid(false, rewards) + &html::grid(false, lengths)
    } else {
        html::grid(false, rewards.into_iter().chain(lengths))
    };
    let read: (usize, usize) =
        report.runs.iter().fold((0, 0), |sum, run| (sum.0 + run.rollouts.files.0, sum.1 + run.rollouts.files.1));
    let part =
        if read.0 < read.1 { format!(", of at most {MOST_FILES} evenly spread steps per run") } else { String::new() };
    let caption =
        format!("Share of the completions trained on, in percent: the first and the last fifth of the steps{part}.");
    let parts = [("first fifth of the steps", Colour::Part(0)), ("last fifth", Colour::Part(1))];
    super::parts_figure("Rewards and lengths of completions", &caption, &parts, grids)
}

/// Curves of the means of each batch.
fn completions(report: &Report) -> String {
    let panels = [
        ("reward", names::REWARD),
        ("answer part of the reward", names::ANSWER_REWARD),
        ("format part of the reward", names::FORMAT_REWARD),
        ("tokens of a completion", names::MEAN_LENGTH),
        ("share cut off at the longest length", names::CLIPPED_RATIO),
        ("share of groups with one reward", names::ZERO_STD),
    ];
    let panels = panels.map(|(title, metric)| report.panel(title, metric)).to_vec();
    let caption = format!("Means over the batch of each step.{}", report.band_note());
    super::panels_figure(report, "Batches", &caption, panels)
}
