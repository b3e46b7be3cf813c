//! Held-out scores: tables of the first and the last evaluation, and the curves between them (Figure 1 of the paper).

use super::Report;
use crate::report::html;
use crate::report::load::Run;
use crate::report::series::Point;
use crate::report::settings::Cohort;
use crate::report::svg::line;
use crate::report::svg::{Size, escape, percent};

pub fn body(report: &Report) -> String {
    let tables = tables(report);
    if tables.is_empty() {
        return tables;
    }
    tables + &by_source(report) + &means(report)
}

/// How a score is named in the metrics of a distribution.
#[derive(Clone, Copy)]
enum Kind {
    AnswerReward,
    /// avg@k.
    Right,
}

impl Kind {
    fn values<'a>(self, run: &'a Run, source: &str) -> &'a [(u64, f64)] {
        match self {
            Self::AnswerReward => run.metrics.get(&format!("eval/{source}/answer_reward")),
            Self::Right => run.metrics.at_k(source, "avg").map_or(&[], |name| run.metrics.get(name)),
        }
    }

    /// Means over a cohort of the first and the last evaluation.
    fn ends(self, cohort: &Cohort, source: &str) -> Option<(f64, f64)> {
        let first = cohort.mean(|run| self.values(run, source).first().map(|(_, value)| *value))?;
        let last = cohort.mean(|run| self.values(run, source).last().map(|(_, value)| *value))?;
        Some((first, last))
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::AnswerReward => format!("{value:.2}").replace('-', "−"),
            Self::Right => percent(value),
        }
    }

    fn show_change(self, change: f64) -> String {
        let sign = if change > 0.0 { "+" } else { "" };
        match self {
            Self::AnswerReward => format!("{sign}{}", self.show(change)),
            Self::Right => format!("{sign}{}", format!("{:.1}", 100.0 * change).replace('-', "−")),
        }
    }
}

fn tables(report: &Report) -> String {
    let tables = [("Answer reward", Kind::AnswerReward), ("Right answers (avg@k), change in points", Kind::Right)];
    let one = |(title, kind): (&str, Kind)| {
        let table = table(report, kind);
        if table.is_empty() {
            table
        } else {
            format!("<div><p><b>{title}</b>: first → last evaluation</p>\n{table}</div>\n")
        }
    };
    let tables: String = tables.into_iter().map(one).collect();
    if tables.is_empty() { tables } else { format!("<div class=\"tables\">\n{tables}</div>\n") }
}

fn table(report: &Report, kind: Kind) -> String {
    let mut rows: Vec<Vec<String>> =
        report.sources.iter().filter_map(|source| row(report, kind, source, source)).collect();
    if rows.is_empty() {
        return String::new();
    }
    rows.extend(row(report, kind, "mean", "mean"));
    let labels = report.cohorts.iter().map(|cohort| escape(&cohort.label));
    let head: Vec<String> = std::iter::once("distribution".to_string()).chain(labels).collect();
    html::table(&head, &rows)
}

/// A distribution's scores, one cell a cohort; the best last one of several is bold. None if nobody has any.
fn row(report: &Report, kind: Kind, label: &str, source: &str) -> Option<Vec<String>> {
    let ends: Vec<Option<(f64, f64)>> = report.cohorts.iter().map(|cohort| kind.ends(cohort, source)).collect();
    let best = ends.iter().flatten().map(|(_, last)| *last).reduce(f64::max)?;
    let cell = |pair: &Option<(f64, f64)>| {
        let Some((first, last)) = *pair else { return "–".to_string() };
        let change = last - first;
        let class = if change >= 0.0 { "up" } else { "down" };
        let bold = if ends.len() > 1 && last == best { " class=\"best\"" } else { "" };
        format!(
            "<small>{} →</small> <span{bold}>{}</span> <small class=\"{class}\">{}</small>",
            kind.show(first),
            kind.show(last),
            kind.show_change(change)
        )
    };
    Some(std::iter::once(escape(label)).chain(ends.iter().map(cell)).collect())
}

fn by_source(report: &Report) -> String {
    let panels = report.sources.iter().map(|source| report.panel(source, &format!("eval/{source}/answer_reward")));
    let caption = format!(
        "The mean answer part of the reward on held-out prompts. Each panel has a scale of its own.{}",
        report.band_note()
    );
    super::panels_figure(
        report,
        "Figure 1. Test answer reward against policy steps, by distribution",
        &caption,
        panels.collect(),
    )
}

/// The mean over the distributions, against steps and against tokens.
fn means(report: &Report) -> String {
    let against_steps = report.lines(|cohort| cohort.curve("eval/mean/answer_reward"));
    let against_tokens = report.lines(|cohort| against_tokens(cohort, "eval/mean/answer_reward"));
    let right = report.lines(|cohort| {
        cohort.curve_of(|run| {
            let values = run.metrics.at_k("mean", "avg").map_or(&[][..], |name| run.metrics.get(name));
            values.iter().map(|&(step, y)| (step, step as f64, y)).collect()
        })
    });
    let panels = [
        ("answer reward against steps", "step", against_steps),
        ("answer reward against generated tokens", "tokens", against_tokens),
        ("right answers against steps", "step", right),
    ];
    let panels = panels.map(|(title, x, lines)| (title.to_string(), line::chart(title, x, Size::HALF, None, &lines)));
    let grid = html::grid(true, panels);
    let legend = if grid.is_empty() { String::new() } else { report.legend() };
    let caption = format!(
        "Mean over the distributions. Tokens are those generated for training, also in groups that were dropped.{}",
        report.band_note()
    );
    html::figure("Mean test score against steps and against generated tokens", &caption, &(legend + &grid))
}

/// A metric against the tokens generated until then.
fn against_tokens(cohort: &Cohort, metric: &str) -> Vec<Point> {
    cohort.curve_of(|run| {
        let tokens = run.metrics.get("perf/total_tokens");
        if tokens.is_empty() {
            return Vec::new();
        }
        let until = |step: u64| match tokens.partition_point(|(at, _)| *at <= step) {
            0 => 0.0,
            n => tokens[n - 1].1,
        };
        run.metrics.get(metric).iter().map(|&(step, y)| (step, until(step), y)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_shown_with_their_sign() {
        assert_eq!(Kind::AnswerReward.show_change(0.4), "+0.40");
        assert_eq!(Kind::AnswerReward.show_change(-1.256), "−1.26");
        assert_eq!((Kind::Right.show(0.125), Kind::Right.show_change(0.125)), ("12 %".into(), "+12.5".into()));
    }
}
