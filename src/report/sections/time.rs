//! How the time is spent, and which stage limits the run.

use super::Report;
use crate::metric_names as names;
use crate::report::advice::{self, Times, duration};
use crate::report::cohort::Cohort;
use crate::report::html;
use crate::report::load::LoadedRun;
use crate::report::series::bins;
use crate::report::svg::bars::{Stack, StackPart};
use crate::report::svg::{Colour, escape, percent};

const BARS: usize = 40;

/// What the thread of the trainer does during a step. The parts add up to the wall time.
const PARTS: [StackPart; 5] = [
    ("waiting for a batch", Colour::Part(0)),
    ("training", Colour::Part(1)),
    ("publishing", Colour::Part(2)),
    ("the rest", Colour::Part(3)),
    ("evaluating", Colour::Part(4)),
];

pub fn body(report: &Report) -> String {
    let advice: String = report.cohorts.iter().map(|cohort| sentence(report, cohort)).collect();
    [advice, totals(report), stages(report), shares(report)].concat()
}

fn times(cohort: &Cohort) -> Times {
    Times {
        steps: cohort.sum(names::TIME_STEP),
        generate: cohort.sum(names::TIME_GENERATE),
        train: cohort.sum(names::TIME_TRAIN),
        eval: cohort.sum(names::TIME_EVAL),
        max_off_policy_steps: cohort.runs[0].settings.number("pipeline.max_off_policy_steps"),
    }
}

/// What limits the runs of a cohort, in words.
fn sentence(report: &Report, cohort: &Cohort) -> String {
    let Some(sentence) = times(cohort).sentence() else { return String::new() };
    let values = cohort.runs.iter().flat_map(|run| run.metrics.get(names::ZERO_STD));
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), (_, share)| (sum + share, n + 1.0));
    let filtered = cohort.runs[0].settings.get("filter.zero_variance") == "true";
    let wasted = advice::wasted(sum / f64::max(n, 1.0), filtered).map_or(String::new(), |s| format!(" {s}"));
    let who = if report.cohorts.len() > 1 { format!("<b>{}</b>: ", escape(&cohort.label)) } else { String::new() };
    format!("<p class=\"advice\">{who}{}</p>\n", escape(&(sentence + &wasted)))
}

/// Seconds of each stage over the whole run.
fn totals(report: &Report) -> String {
    let head = ["run", "steps", "generating", "training", "publishing", "evaluating", "trainer idle", "engine idle"];
    let rows: Vec<Vec<String>> = report.cohorts.iter().filter_map(total_row).collect();
    if rows.is_empty() { String::new() } else { html::table(&head.map(String::from), &rows) }
}

fn total_row(cohort: &Cohort) -> Option<Vec<String>> {
    let times = times(cohort);
    let seconds = [times.steps, times.generate, times.train, cohort.sum(names::TIME_PUBLISH), times.eval].map(duration);
    let idle = [times.trainer_idle(), times.engine_idle()].map(percent);
    (times.steps > 0.0).then(|| std::iter::once(escape(&cohort.label)).chain(seconds).chain(idle).collect())
}

/// Seconds of each part in a step of a run.
fn parts(run: &LoadedRun, step: u64) -> [f64; 5] {
    let at = |metric: &str| {
        let values = run.metrics.get(metric);
        values.binary_search_by_key(&step, |(step, _)| *step).map_or(0.0, |index| values[index].1)
    };
    let [wait, train, publish] = [names::TIME_WAIT_FOR_BATCH, names::TIME_TRAIN, names::TIME_PUBLISH].map(at);
    [wait, train, publish, (at(names::TIME_STEP) - wait - train - publish).max(0.0), at(names::TIME_EVAL)]
}

fn stages(report: &Report) -> String {
    let stacks = |cohort: &Cohort| {
        // The run of the cohort with the fewest steps.
        let steps = cohort.runs.iter().map(|run| run.metrics.get(names::TIME_STEP)).min_by_key(|steps| steps.len());
        let steps: Vec<u64> = steps.unwrap_or(&[]).iter().map(|(step, _)| *step).collect();
        bins(steps.len(), bars(steps.len(), cohort)).map(|range| stack(cohort, &steps[range])).collect()
    };
    let caption =
        "Mean seconds of wall time per step, as the trainer sees it. While it waits for a batch, the engine generates.";
    super::stacked_figure(report, "Where a step's time goes", caption, &PARTS, None, stacks)
}

/// The number of bars. If there are enough steps, every bar covers the same number of evaluations.
fn bars(steps: usize, cohort: &Cohort) -> usize {
    let interval = cohort.runs[0].settings.number("eval.interval") as usize;
    let size = steps.div_ceil(BARS).div_ceil(interval.max(1)) * interval.max(1);
    if steps >= 8 * size { steps.div_ceil(size.max(1)) } else { BARS }
}

/// Means over `steps` and the runs of a cohort.
fn stack(cohort: &Cohort, steps: &[u64]) -> Stack {
    let mut sums = [0.0; 5];
    for (step, run) in steps.iter().flat_map(|step| cohort.runs.iter().map(move |run| (step, run))) {
        sums.iter_mut().zip(parts(run, *step)).for_each(|(sum, part)| *sum += part);
    }
    let n = (steps.len() * cohort.runs.len()) as f64;
    Stack { steps: (steps[0], steps[steps.len() - 1]), parts: sums.map(|sum| sum / n).to_vec() }
}

fn shares(report: &Report) -> String {
    let panels = [
        ("trainer idle, share of the step", names::TRAINER_IDLE),
        ("engine idle, share of the step", names::ENGINE_IDLE),
        ("engine busy, s", names::TIME_GENERATE),
        ("requests waiting for a new policy, s", names::TIME_WAIT_FOR_POLICY),
        ("tokens trained on per second", names::TOKENS_PER_S),
        ("memory, MB", names::MEMORY),
    ];
    let panels = panels.map(|(title, metric)| report.panel(title, metric)).to_vec();
    super::panels_figure(report, "Idle shares and speed", "Evaluations are left out of the shares.", panels)
}
