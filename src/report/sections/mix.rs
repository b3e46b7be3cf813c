//! What the curriculum chose (Figure 2 of the DUMP paper), and how it scored each distribution.

use super::Report;
use crate::metric_names::ArmMetric;
use crate::report::cohort::Cohort;
use crate::report::html;
use crate::report::series::{Mix, PlotPoint, thin};
use crate::report::svg::heat::{self, Column, Map};
use crate::report::svg::{Size, number, percent};

/// The largest number of columns of a heat map.
const COLUMNS: usize = 50;

/// Shares are smoothed over the run's number of steps divided by this.
const WINDOW_PART: usize = 20;

pub fn body(report: &Report) -> String {
    let figures = [
        curves(report),
        map_of(report, ArmMetric::Trained, "Share of each distribution, as a map", "Share of the groups trained on."),
        dispatched(report),
        scores(report, ArmMetric::Learnability, "Value of each distribution for the curriculum", LEARNABILITY),
        scores(
            report,
            ArmMetric::Bonus,
            "Exploration bonus of each distribution",
            "It is added to the value, and shrinks the more groups were seen.",
        ),
        rewards(report),
    ];
    figures.concat()
}

const LEARNABILITY: &str = "How the policy rates each distribution. For DUMP: the mean |advantage| of the last rollouts. It is \
    largest where about half of a group's completions are right.";

/// The smoothing window for the longest run: odd, and 1 for short runs.
fn window(report: &Report) -> usize {
    let steps = report.runs.iter().map(|run| run.metrics.steps.len()).max().unwrap_or(0);
    (steps / WINDOW_PART) | 1
}

fn curves(report: &Report) -> String {
    let window = window(report);
    let points = |cohort: &Cohort, arm: usize| {
        let Some(mix) = Mix::of(&cohort.runs, &report.sources, ArmMetric::Trained) else { return Vec::new() };
        let shares = mix.shares(window);
        let shares = mix.steps.iter().zip(&shares).filter_map(|(step, shares)| Some((*step, shares.as_ref()?[arm])));
        thin(shares.map(|(step, share)| PlotPoint::new(step as f64, 100.0 * share)).collect())
    };
    let smoothed = if window > 1 { format!(", smoothed over {window} steps") } else { String::new() };
    let caption = format!("Share of the groups trained on, in percent{smoothed}.");
    super::arms_figure(report, "Share of each distribution over time", &caption, points)
}

fn map_of(report: &Report, what: ArmMetric, title: &str, caption: &str) -> String {
    let columns = |cohort: &Cohort| -> Vec<Column> {
        let binned = Mix::of(&cohort.runs, &report.sources, what).map(|mix| mix.binned(COLUMNS)).unwrap_or_default();
        let one = |(first, last, shares): (u64, u64, Option<Vec<f64>>)| Column {
            steps: (first, last),
            values: shares.map_or(vec![None; report.sources.len()], |s| s.into_iter().map(Some).collect()),
        };
        binned.into_iter().map(one).collect()
    };
    maps(report, title, caption, true, columns, percent)
}

/// One heat map per cohort, all on the same scale, which starts at 0 if `from_zero`.
fn maps(
    report: &Report,
    title: &str,
    caption: &str,
    from_zero: bool,
    columns: impl Fn(&Cohort) -> Vec<Column>,
    show: fn(f64) -> String,
) -> String {
    let all: Vec<Vec<Column>> = report.cohorts.iter().map(columns).collect();
    let ranges = all.iter().filter_map(|columns| heat::range(columns));
    let Some(range) = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return String::new() };
    let range = if from_zero { (0.0, range.1) } else { range };
    let width = Size::HALF.width;
    let rows = &report.sources;
    let draw = |columns: &Vec<Column>| Map { name: title, width, rows, columns, range, show }.draw();
    let grid = html::grid(true, report.titles().zip(all.iter().map(draw)));
    html::figure(title, caption, &(html::scale(&show(range.0), &show(range.1)) + &grid))
}

/// The drawn groups, if they differ from the groups trained on.
fn dispatched(report: &Report) -> String {
    let total = |what: ArmMetric| {
        report
            .cohorts
            .iter()
            .filter_map(|c| Mix::of(&c.runs, &report.sources, what))
            .map(|mix| mix.total())
            .sum::<f64>()
    };
    if total(ArmMetric::Dispatched) <= 1.02 * total(ArmMetric::Trained) {
        return String::new();
    }
    let caption =
        "Share of all drawn groups, including those that were left out later. All of them cost time to generate.";
    map_of(report, ArmMetric::Dispatched, "Groups drawn of each distribution", caption)
}

/// The metric `what` of every distribution; empty if it is always 0.
fn scores(report: &Report, what: ArmMetric, title: &str, caption: &str) -> String {
    let points = |cohort: &Cohort, arm: usize| middle(cohort.curve(&what.of(&report.sources[arm])));
    super::arms_figure(report, title, caption, points)
}

/// The line without its band: the bands of many distributions would hide each other.
fn middle(points: Vec<PlotPoint>) -> Vec<PlotPoint> {
    points.into_iter().map(|p| PlotPoint::new(p.x, p.y)).collect()
}

/// Mean reward of all completions that the curriculum observed, including groups that were left out.
fn rewards(report: &Report) -> String {
    let columns = |cohort: &Cohort| -> Vec<Column> {
        let last = cohort.runs.iter().flat_map(|run| run.observed.keys().map(|(step, _)| *step)).max().unwrap_or(0);
        let size = (last as usize).div_ceil(COLUMNS).max(1) as u64;
        (1..=last)
            .step_by(size as usize)
            .map(|first| reward_column(report, cohort, first, (first + size - 1).min(last)))
            .collect()
    };
    let caption = "Mean reward of all observed completions, including groups that were left out. Blank cells: no group was drawn.";
    maps(report, "Training reward of each distribution over time", caption, false, columns, number)
}

fn reward_column(report: &Report, cohort: &Cohort, first: u64, last: u64) -> Column {
    let mean = |source: &String| {
        let steps = (first..=last).map(|step| (step, source.clone()));
        let observed = steps.flat_map(|key| cohort.runs.iter().filter_map(move |run| run.observed.get(&key)));
        let (reward, n) = observed.fold((0.0, 0), |(reward, n), o| (reward + o.reward, n + o.completions));
        (n > 0).then(|| reward / n as f64)
    };
    Column { steps: (first, last), values: report.sources.iter().map(mean).collect() }
}
