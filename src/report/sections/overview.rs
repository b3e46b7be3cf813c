//! The runs, their cost, and their differences.

use super::Report;
use crate::metric_names::{self as names, EvalMetric};
use crate::report::advice::duration;
use crate::report::cohort::differences;
use crate::report::html;
use crate::report::load::LoadedRun;
use crate::report::svg::{escape, number, percent};

pub fn title(report: &Report) -> String {
    match report.runs {
        [run] => format!("Training run {}", run.name),
        runs => format!("{} training runs", runs.len()),
    }
}

/// One line below the title.
pub fn summary(report: &Report) -> String {
    let tokens: f64 = report.runs.iter().filter_map(|run| run.metrics.last(names::TOTAL_TOKENS)).sum();
    let seconds: f64 = report.runs.iter().map(wall).sum();
    let mut policies: Vec<&str> = report.runs.iter().map(|run| run.settings.get("curriculum.policy")).collect();
    policies.sort_unstable();
    policies.dedup();
    format!(
        "<p class=\"muted\">Curriculum {} · {} distributions · {} tokens generated for training · {} of wall time</p>\n",
        escape(&policies.join(", ")),
        report.sources.len(),
        number(tokens),
        duration(seconds)
    )
}

/// Seconds of all steps and evaluations.
fn wall(run: &LoadedRun) -> f64 {
    run.metrics.sum(names::TIME_STEP) + run.metrics.sum(names::TIME_EVAL)
}

/// Tokens per second over the steps, without evaluations.
fn speed(run: &LoadedRun) -> Option<f64> {
    let seconds = run.metrics.sum(names::TIME_STEP);
    let tokens = run.metrics.last(names::TOTAL_TOKENS)?;
    (seconds > 0.0).then(|| tokens / seconds)
}

pub fn body(report: &Report) -> String {
    let head = [
        "run",
        "policy",
        "model",
        "seed",
        "B × G",
        "η",
        "filter",
        "steps",
        "tokens",
        "time",
        "evaluating",
        "tokens/s",
        "peak memory",
        "answer reward",
        "right",
    ];
    let rows: Vec<Vec<String>> = report.runs.iter().map(row).collect();
    let note = "<p class=\"muted\">B groups (prompts) per step, with G completions each; η: how many steps old the policy of a completion \
        may be. Tokens: generated for training, also those of groups that were dropped. Answer reward and right answers: means \
        over the distributions in the last evaluation. In every chart the horizontal axis is the policy step unless its title says \
        otherwise.</p>\n";
    html::table(&head.map(String::from), &rows) + note + &difference_table(report)
}

fn row(run: &LoadedRun) -> Vec<String> {
    let (settings, metrics) = (&run.settings, &run.metrics);
    let text = |key: &str| escape(settings.get(key));
    let last = |name: &str, show: fn(f64) -> String| metrics.last(name).map_or("–".into(), show);
    let wall = wall(run);
    let steps = metrics.steps.last().map_or("0".into(), ToString::to_string);
    let filtered = settings.get("filter.zero_variance") == "true";
    vec![
        escape(&run.name),
        text("curriculum.policy"),
        escape(settings.model()),
        text("seed"),
        format!("{} × {}", text("batch_size"), text("group_size")),
        text("pipeline.max_off_policy_steps"),
        if filtered { "same reward".into() } else { "none".into() },
        format!("{steps} <small>of {}</small>", text("max_steps")),
        last(names::TOTAL_TOKENS, number),
        duration(wall),
        if wall > 0.0 { percent(metrics.sum(names::TIME_EVAL) / wall) } else { "–".into() },
        speed(run).map_or("–".into(), number),
        last(names::PEAK_MEMORY, |mb| format!("{} GB", number(mb / 1000.0))),
        last(&EvalMetric::AnswerReward.of(names::MEAN), number),
        metrics.avg_name(names::MEAN).and_then(|name| metrics.last(name)).map_or("–".into(), percent),
    ]
}

/// Settings that the table of the runs shows.
const SHOWN: [&str; 8] = [
    "curriculum.policy",
    "model",
    "seed",
    "batch_size",
    "group_size",
    "pipeline.max_off_policy_steps",
    "filter.zero_variance",
    "max_steps",
];

/// Names the settings in which the runs differ, with a table of those that the table of the runs does not show.
fn difference_table(report: &Report) -> String {
    let all = differences(report.runs);
    if all.is_empty() {
        return String::new();
    }
    let note = format!("<p>The runs differ in {}; every other setting is the same.</p>\n", escape(&all.join(", ")));
    let keys: Vec<&str> = all.into_iter().filter(|key| !SHOWN.contains(key)).collect();
    if keys.is_empty() {
        return note;
    }
    let head: Vec<String> = std::iter::once("run").chain(keys.iter().copied()).map(escape).collect();
    let cells = |run: &LoadedRun| {
        let values = keys.iter().map(|key| run.settings.get(key));
        std::iter::once(run.name.as_str()).chain(values).map(escape).collect()
    };
    let rows: Vec<Vec<String>> = report.runs.iter().map(cells).collect();
    note + &html::table(&head, &rows)
}
