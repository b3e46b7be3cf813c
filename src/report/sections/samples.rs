//! Completions to read, with their grades.

use std::fmt::Write;

use super::Report;
use crate::report::rollouts::SampleCompletion;
use crate::report::svg::{escape, number};

pub fn body(report: &Report) -> String {
    let count: usize = report.runs.iter().map(|run| run.rollouts.samples.len()).sum();
    if count == 0 {
        return String::new();
    }
    let mut out = format!(
        "<p class=\"muted\">{count} completions, spread over runs, steps and distributions: a right and a wrong one of each, if there \
         are any. So their mix says nothing about how often answers are right. Long ones are shortened in the middle.</p>\n"
    );
    out += &controls(report);
    for run in report.runs {
        run.rollouts.samples.iter().for_each(|sample| details(&mut out, report.runs.len(), &run.name, sample));
    }
    out
}

/// Search and filters; the script of the page shows them.
fn controls(report: &Report) -> String {
    let options = |all: &str, values: &mut dyn Iterator<Item = &String>| {
        let rest: String = values.map(|value| format!("<option>{}</option>", escape(value))).collect();
        format!("<option value=\"\">{all}</option>{rest}")
    };
    let runs = match report.runs {
        [_] => String::new(),
        runs => {
            format!(
                "<select name=\"run\" aria-label=\"run\">{}</select>",
                options("every run", &mut runs.iter().map(|r| &r.name))
            )
        }
    };
    format!(
        "<form id=\"controls\" hidden onsubmit=\"return false\"><input name=\"text\" type=\"search\" placeholder=\"Search in \
         completions\" aria-label=\"search\">{runs}<select name=\"source\" aria-label=\"distribution\">{}</select>\
         <select name=\"grade\" aria-label=\"grade\"><option value=\"\">right and wrong</option><option>right</option>\
         <option>wrong</option></select><output class=\"muted\"></output></form>\n",
        options("every distribution", &mut report.sources.iter())
    )
}

fn details(out: &mut String, runs: usize, run: &str, sample: &SampleCompletion) {
    let grade = if sample.is_right() { "right" } else { "wrong" };
    let (run_attribute, source) = (escape(run), escape(&sample.data_source));
    let run = if runs > 1 { format!("{run_attribute} · ") } else { String::new() };
    let shown = |value: Option<f64>| value.map_or("–".into(), number);
    let cut = if sample.finish == "length" { " (cut off)" } else { "" };
    let _ = writeln!(
        out,
        "<details class=\"sample {grade}\" data-run=\"{run_attribute}\" data-source=\"{source}\"><summary><b>{grade}</b> {run}step \
         {} · {source} · row {} · reward {} <span class=\"muted\">(format {}, answer {}) · advantage {} · {} tokens{cut} · policy of \
         step {} {}</span></summary><pre>{}</pre></details>",
        sample.step,
        sample.row,
        shown(sample.reward),
        shown(sample.format_score),
        shown(sample.answer_score),
        shown(sample.advantage),
        sample.tokens,
        sample.policy_step,
        escape(&sample.adapter),
        escape(&sample.completion)
    );
}
