//! The parts of the report, in the order of the page.

mod groups;
mod mix;
mod overview;
mod samples;
mod scores;
mod time;
mod training;

use super::cohort::{Cohort, cohorts};
use super::html::{self, Section};
use super::load::LoadedRun;
use super::series::PlotPoint;
use super::svg::bars::{self, Stack, StackPart};
use super::svg::line::{self, PlotLine};
use super::svg::{Colour, Size};

/// The data of the report, for every section.
struct Report<'a> {
    runs: &'a [LoadedRun],
    cohorts: Vec<Cohort<'a>>,
    /// The distributions of all runs, in the order of first appearance.
    sources: Vec<String>,
}

/// The whole page over `runs`.
pub fn page(runs: &[LoadedRun]) -> String {
    let mut sources: Vec<String> = Vec::new();
    for source in runs.iter().flat_map(|run| &run.sources) {
        if !sources.contains(source) {
            sources.push(source.clone());
        }
    }
    let report = Report { runs, cohorts: cohorts(runs), sources };
    let sections = [
        Section { id: "runs", title: "Runs", body: overview::body(&report) },
        Section { id: "scores", title: "Test scores", body: scores::body(&report) },
        Section { id: "mix", title: "Curriculum", body: mix::body(&report) },
        Section { id: "groups", title: "Groups and completions", body: groups::body(&report) },
        Section { id: "time", title: "Time", body: time::body(&report) },
        Section { id: "training", title: "Training", body: training::body(&report) },
        Section { id: "samples", title: "Sample completions", body: samples::body(&report) },
    ];
    html::page(&overview::title(&report), &overview::summary(&report), report.sources.len(), &sections)
}

impl Report<'_> {
    /// One line per cohort.
    fn lines(&self, points: impl Fn(&Cohort) -> Vec<PlotPoint>) -> Vec<PlotLine> {
        let one =
            |cohort: &Cohort| PlotLine { label: cohort.label.clone(), colour: cohort.colour, points: points(cohort) };
        self.cohorts.iter().map(one).collect()
    }

    /// A small chart of a metric against the step, with its title; empty if the metric was never logged or is always 0.
    fn panel(&self, title: &str, metric: &str) -> (String, String) {
        let lines = self.lines(|cohort| cohort.curve(metric));
        let zero = lines.iter().flat_map(|line| &line.points).all(|p| p.low == 0.0 && p.high == 0.0);
        let chart = if zero { String::new() } else { line::chart(title, "step", Size::SMALL, None, &lines) };
        (title.to_string(), chart)
    }

    /// The legend of the cohorts; empty if there is only one.
    fn legend(&self) -> String {
        if self.cohorts.len() < 2 {
            return String::new();
        }
        html::legend(self.cohorts.iter().map(|cohort| (cohort.label.as_str(), cohort.colour)))
    }

    /// The legend of the distributions.
    fn source_legend(&self) -> String {
        html::legend(self.sources.iter().enumerate().map(|(i, source)| (source.as_str(), Colour::Arm(i))))
    }

    /// One title per cohort; empty if there is only one.
    fn titles(&self) -> impl Iterator<Item = String> + '_ {
        self.cohorts.iter().map(|c| if self.cohorts.len() > 1 { c.label.clone() } else { String::new() })
    }

    /// How to read lines that stand for several runs.
    fn band_note(&self) -> &'static str {
        if self.cohorts.iter().any(|cohort| cohort.runs.len() > 1) {
            " Lines are means over the runs that differ only in their seed, and bands show the smallest and largest value."
        } else {
            ""
        }
    }
}

/// One chart per cohort with one line per distribution, all on the same scale; `points` of a cohort and a distribution.
fn arms_figure(
    report: &Report,
    title: &str,
    caption: &str,
    points: impl Fn(&Cohort, usize) -> Vec<PlotPoint>,
) -> String {
    let line = |cohort: &Cohort, arm: usize| PlotLine {
        label: report.sources[arm].clone(),
        colour: Colour::Arm(arm),
        points: points(cohort, arm),
    };
    let lines = |cohort: &Cohort| (0..report.sources.len()).map(|arm| line(cohort, arm)).collect::<Vec<PlotLine>>();
    let all: Vec<Vec<PlotLine>> = report.cohorts.iter().map(lines).collect();
    if all.iter().flatten().flat_map(|line| &line.points).all(|p| p.y == 0.0) {
        return String::new();
    }
    let range = Some(line::y_range(all.iter().flatten()));
    let charts = all.iter().map(|lines| {
        let zero = lines.iter().flat_map(|line| &line.points).all(|p| p.y == 0.0);
        if zero { String::new() } else { line::chart(title, "step", Size::HALF, range, lines) }
    });
    html::figure(title, caption, &(report.source_legend() + &html::grid(true, report.titles().zip(charts))))
}

/// One chart of bars over steps per cohort, all on the same scale: up to `top`, or to the highest bar.
fn stacked_figure(
    report: &Report,
    title: &str,
    caption: &str,
    parts: &[StackPart],
    top: Option<f64>,
    stacks: impl Fn(&Cohort) -> Vec<Stack>,
) -> String {
    let all: Vec<Vec<Stack>> = report.cohorts.iter().map(stacks).collect();
    let highest = all.iter().flatten().map(Stack::height).fold(0.0, f64::max);
    let top = top.unwrap_or(1.04 * highest);
    let charts = all.iter().map(|stacks| bars::stacked(title, Size::HALF, top, parts, stacks));
    let used = |part: &usize| all.iter().flatten().any(|stack| stack.parts[*part] > 0.0);
    let used: Vec<StackPart> = (0..parts.len()).filter(used).map(|part| parts[part]).collect();
    parts_figure(title, caption, &used, html::grid(true, report.titles().zip(charts)))
}

/// A figure whose colours are parts of a whole.
fn parts_figure(title: &str, caption: &str, parts: &[StackPart], grid: String) -> String {
    if grid.is_empty() {
        return grid;
    }
    html::figure(title, caption, &(html::legend(parts.iter().copied()) + &grid))
}

/// A figure of small charts with the legend of the cohorts.
fn panels_figure(report: &Report, title: &str, caption: &str, panels: Vec<(String, String)>) -> String {
    let grid = html::grid(false, panels);
    let legend = if grid.is_empty() { String::new() } else { report.legend() };
    html::figure(title, caption, &(legend + &grid))
}
