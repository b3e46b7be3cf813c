//! What became of groups, and what completions were like.

use std::collections::BTreeSet;

use super::Report;
use crate::report::html;
use crate::report::load::Run;
use crate::report::rollouts::{Drawn, MOST_FILES};
use crate::report::series::{Point, bins, gains};
use crate::report::settings::Cohort;
use crate::report::svg::bars::{self, Stack};
use crate::report::svg::{Colour, Size, escape, number};

/// Bars of a stacked chart at most.
const BARS: usize = 40;

pub fn body(report: &Report) -> String {
    [solved(report), filtered(report), outcomes(report), histograms(report), completions(report)].concat()
}

/// Means of several metrics over parts of a cohort's steps, as percentages.
fn stacks(cohort: &Cohort, metrics: &[&str]) -> Vec<Stack> {
    let curves: Vec<Vec<Point>> = metrics.iter().map(|metric| cohort.curve(metric)).collect();
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let one = |range: std::ops::Range<usize>| Stack {
        steps: (curves[0][range.start].x as u64, curves[0][range.end - 1].x as u64),
        parts: curves
            .iter()
            .map(|c| 100.0 * c[range.clone()].iter().map(|p| p.y).sum::<f64>() / range.len() as f64)
            .collect(),
    };
    bins(length, BARS).map(one).collect()
}

fn solved(report: &Report) -> String {
    const LABELS: [&str; 3] = ["all right", "some right", "none right"];
    const METRICS: [&str; 3] = ["groups/solved_all", "groups/solved_some", "groups/solved_none"];
    let charts = report
        .each(|cohort| bars::stacked("solved groups, %", Size::HALF, Some(100.0), &LABELS, &stacks(cohort, &METRICS)));
    let grid = html::grid(true, charts);
    let caption = "Groups trained on, in percent, by how many of their completions are right. Only groups with some right and some \
        wrong answers have a reward that differs by the answer.";
    parts_figure("Solved and unsolved groups", caption, &LABELS, grid)
}

/// A figure whose colours are parts of a whole.
fn parts_figure(title: &str, caption: &str, labels: &[&str], grid: String) -> String {
    if grid.is_empty() {
        return grid;
    }
    let legend = html::legend(labels.iter().enumerate().map(|(i, label)| (*label, Colour::Part(i))));
    html::figure(title, caption, &(legend + &grid))
}

/// Groups left out in each step, by reason; nothing where none was.
fn filtered(report: &Report) -> String {
    const LABELS: [&str; 4] = ["all right", "all equally wrong", "too old", "failed"];
    const METRICS: [&str; 4] =
        ["groups/filtered_solved_all", "groups/filtered_solved_none", "off_policy/dropped", "groups/failed"];
    let charts = report.each(|cohort| {
        let gained = |metric: &&str| -> Vec<(u64, f64)> {
            let points = cohort.curve_of(|run| {
                gains(run.metrics.get(metric)).into_iter().map(|(step, gain)| (step, step as f64, gain)).collect()
            });
            points.into_iter().map(|p| (p.x as u64, p.y)).collect()
        };
        let gained: Vec<Vec<(u64, f64)>> = METRICS.iter().map(gained).collect();
        let length = gained.iter().map(Vec::len).min().unwrap_or(0);
        let one = |range: std::ops::Range<usize>| Stack {
            steps: (gained[0][range.start].0, gained[0][range.end - 1].0),
            parts: gained
                .iter()
                .map(|g| g[range.clone()].iter().map(|(_, n)| n).sum::<f64>() / range.len() as f64)
                .collect(),
        };
        let stacks: Vec<Stack> = bins(length, BARS).map(one).collect();
        bars::stacked("groups left out in a step", Size::HALF, None, &LABELS, &stacks)
    });
    let caption = "Groups left out in each step, by reason; others were drawn in their place.";
    parts_figure("Groups left out", caption, &LABELS, html::grid(true, charts))
}

/// A table of what became of every drawn group; nothing where all were trained on.
fn outcomes(report: &Report) -> String {
    let count = |run: &Run, source: &str, outcome: &str| {
        run.outcomes.get(&(source.to_string(), outcome.to_string())).copied().unwrap_or(0)
    };
    let kinds: BTreeSet<&str> =
        report.runs.iter().flat_map(|run| run.outcomes.keys().map(|(_, kind)| kind.as_str())).collect();
    if kinds.iter().all(|kind| *kind == "trained") {
        return String::new();
    }
    let table = |cohort: &Cohort| {
        let cell = |source: &str, kind: &str| cohort.runs.iter().map(|run| count(run, source, kind)).sum::<u64>();
        let row = |source: &String| {
            let counts: Vec<u64> = kinds.iter().map(|kind| cell(source, kind)).collect();
            let all = std::iter::once(counts.iter().sum::<u64>()).chain(counts.iter().copied());
            std::iter::once(escape(source)).chain(all.map(|n| number(n as f64))).collect()
        };
        let kinds = kinds.iter().map(|kind| escape(&kind.replace('_', " ")));
        let head: Vec<String> = ["distribution", "drawn"].map(String::from).into_iter().chain(kinds).collect();
        html::table(&head, &report.sources.iter().map(row).collect::<Vec<_>>())
    };
    let tables = html::grid(true, report.each(table));
    html::figure("What became of the drawn groups", "Groups whose fate is known, by distribution.", &tables)
}

/// Rewards and lengths of the first and the last fifth of the steps.
fn histograms(report: &Report) -> String {
    let pooled = |cohort: &Cohort, of: fn(&Drawn) -> &Vec<f64>| -> [Vec<f64>; 2] {
        let all = |which: fn(&Run) -> &Drawn| cohort.runs.iter().flat_map(|run| of(which(run))).copied().collect();
        [all(|run| &run.rollouts.early), all(|run| &run.rollouts.late)]
    };
    let chart = |cohort: &Cohort, name: &str, of: fn(&Drawn) -> &Vec<f64>| {
        let [early, late] = pooled(cohort, of);
        let sets = [("first fifth".to_string(), early.as_slice()), ("last fifth".to_string(), late.as_slice())];
        bars::histogram(name, Size::SMALL, &sets)
    };
    let named = |what: &str, charts: Vec<(String, String)>| -> Vec<(String, String)> {
        charts
            .into_iter()
            .map(|(run, chart)| (if run.is_empty() { what.into() } else { format!("{what}, {run}") }, chart))
            .collect()
    };
    let rewards = named("reward", report.each(|cohort| chart(cohort, "reward", |drawn| &drawn.rewards)));
    let lengths = named("tokens", report.each(|cohort| chart(cohort, "tokens", |drawn| &drawn.lengths)));
    let grids = html::grid(false, rewards) + &html::grid(false, lengths);
    let read: (usize, usize) =
        report.runs.iter().fold((0, 0), |sum, run| (sum.0 + run.rollouts.files.0, sum.1 + run.rollouts.files.1));
    let part =
        if read.0 < read.1 { format!(", of at most {MOST_FILES} evenly spread steps a run") } else { String::new() };
    let caption =
        format!("Share of the completions trained on, in percent: the first and the last fifth of the steps{part}.");
    parts_figure("Rewards and lengths of completions", &caption, &["first fifth of the steps", "last fifth"], grids)
}

/// Curves of what each batch was like.
fn completions(report: &Report) -> String {
    let panels = [
        ("reward", "reward"),
        ("answer part of the reward", "rewards/answer/mean"),
        ("format part of the reward", "rewards/format/mean"),
        ("tokens of a completion", "completions/mean_length"),
        ("share cut off at the longest length", "completions/clipped_ratio"),
        ("share of groups with one reward", "frac_reward_zero_std"),
    ];
    let panels = panels.map(|(title, metric)| report.panel(title, metric)).to_vec();
    let caption = format!("Means over the batch of each step.{}", report.band_note());
    super::panels_figure(report, "Batches", &caption, panels)
}
