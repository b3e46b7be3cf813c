//! Held-out scores: tables of the first and the last evaluation, and the curves between them (Figure 1 of the DUMP paper).

use super::Report;
use crate::metric_names::{self as names, EvalMetric};
use crate::report::cohort::Cohort;
use crate::report::html;
use crate::report::load::LoadedRun;
use crate::report::svg::line;
use crate::report::svg::{Size, escape, percent};

pub fn body(report: &Report) -> String {
    let tables = tables(report);
    if tables.is_empty() {
        return tables;
    }
    tables + &by_source(report) + &means(report)
}

/// The score that a table or a curve shows.
#[derive(Clone, Copy)]
enum Kind {
    AnswerReward,
    /// avg@k.
    Right,
}

impl Kind {
    fn values<'a>(self, run: &'a LoadedRun, source: &str) -> &'a [(u64, f64)] {
        match self {
            Self::AnswerReward => run.metrics.get(&EvalMetric::AnswerReward.of(source)),
            Self::Right => run.metrics.avg_name(source).map_or(&[], |name| run.metrics.get(name)),
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
        let text = match self {
            Self::AnswerReward => format!("{change:+.2}"),
            Self::Right => format!("{:+.1}", 100.0 * change),
        };
        let zero = text.chars().all(|c| !c.is_ascii_digit() || c == '0');
        let class = if zero {
            ""
        } else if change > 0.0 {
            "up"
        } else {
            "down"
        };
        let text = if zero { text.replace(['+', '-'], "") } else { text.replace('-', "−") };
        format!("<small class=\"{class}\">{text}</small>")
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
    rows.extend(row(report, kind, "mean", names::MEAN));
    let labels = report.cohorts.iter().map(|cohort| escape(&cohort.label));
    let head: Vec<String> = std::iter::once("distribution".to_string()).chain(labels).collect();
    html::table(&head, &rows)
}

/// The scores of a distribution, one cell per cohort. If the last scores differ, the best is bold. None without any
/// score.
fn row(report: &Report, kind: Kind, label: &str, source: &str) -> Option<Vec<String>> {
    let ends: Vec<Option<(f64, f64)>> = report.cohorts.iter().map(|cohort| kind.ends(cohort, source)).collect();
    let best = ends.iter().flatten().map(|(_, last)| *last).reduce(f64::max)?;
    let worst = ends.iter().flatten().map(|(_, last)| *last).fold(best, f64::min);
    let cell = |pair: &Option<(f64, f64)>| {
        let Some((first, last)) = *pair else { return "–".to_string() };
        let bold = if worst < best && last == best { " class=\"best\"" } else { "" };
        format!(
            "<small>{} →</small> <span{bold}>{}</span> {}",
            kind.show(first),
            kind.show(last),
            kind.show_change(last - first)
        )
    };
    Some(std::iter::once(escape(label)).chain(ends.iter().map(cell)).collect())
}

fn by_source(report: &Report) -> String {
    let panels = report.sources.iter().map(|source| report.panel(source, &EvalMetric::AnswerReward.of(source)));
    let caption = format!(
        "The mean answer part of the reward on held-out prompts. Each panel has its own scale.{}",
        report.band_note()
    );
    super::panels_figure(report, "Test answer reward against policy steps, by distribution", &caption, panels.collect())
}

/// The mean over the distributions, against steps and against tokens.
fn means(report: &Report) -> String {
    let reward = |run: &LoadedRun| Kind::AnswerReward.values(run, names::MEAN).to_vec();
    let right = |run: &LoadedRun| {
        Kind::Right.values(run, names::MEAN).iter().map(|&(step, share)| (step, 100.0 * share)).collect()
    };
    let panels = [
        against_steps(report, "answer reward against steps", &reward),
        against_tokens(report, "answer reward against generated tokens", &reward),
        against_steps(report, "right answers, %, against steps", &right),
        against_tokens(report, "right answers, %, against generated tokens", &right),
    ];
    let grid = html::grid(true, panels);
    let legend = if grid.is_empty() { String::new() } else { report.legend() };
    let caption = format!(
        "Mean over the distributions. Tokens are those generated for training, also in groups that were dropped.{}",
        report.band_note()
    );
    html::figure("Mean test score against steps and against generated tokens", &caption, &(legend + &grid))
}

type Values<'a> = &'a dyn Fn(&LoadedRun) -> Vec<(u64, f64)>;

fn against_steps(report: &Report, title: &str, values: Values) -> (String, String) {
    let points = |run: &LoadedRun| values(run).into_iter().map(|(step, y)| (step, step as f64, y)).collect();
    let lines = report.lines(|cohort| cohort.curve_of(points));
    (title.to_string(), line::chart(title, "step", Size::HALF, None, &lines))
}

/// Against the tokens that were generated before the evaluation.
fn against_tokens(report: &Report, title: &str, values: Values) -> (String, String) {
    let points = |run: &LoadedRun| {
        let tokens = run.metrics.get(names::TOTAL_TOKENS);
        let until = |step: u64| match tokens.partition_point(|(at, _)| *at <= step) {
            0 => 0.0,
            n => tokens[n - 1].1,
        };
        let values = if tokens.is_empty() { Vec::new() } else { values(run) };
        values.into_iter().map(|(step, y)| (step, until(step), y)).collect()
    };
    let lines = report.lines(|cohort| cohort.curve_of(points));
    (title.to_string(), line::chart(title, "tokens", Size::HALF, None, &lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_shown_with_their_sign() {
        assert_eq!(Kind::AnswerReward.show_change(0.4), "<small class=\"up\">+0.40</small>");
        assert_eq!(Kind::AnswerReward.show_change(-1.256), "<small class=\"down\">−1.26</small>");
        assert_eq!(Kind::AnswerReward.show_change(-0.001), "<small class=\"\">0.00</small>");
        assert_eq!(Kind::Right.show(0.125), "12 %");
    }
}
