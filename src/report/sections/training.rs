//! The curves of the trainer, staleness, and the difference between engine and trainer.

use std::collections::BTreeSet;

use super::Report;
use crate::metric_names as names;

pub fn body(report: &Report) -> String {
    let figures = [
        figure(report, "Policy updates", UPDATES, names::ACTOR),
        figure(report, "Off-policy steps", OFF_POLICY, names::OFF_POLICY),
        figure(report, "Engine against trainer", MISMATCH, names::ROLLOUT_CORR),
    ];
    figures.concat()
}

const UPDATES: &str = "Loss, entropy, gradient norm, KL and learning rate of each step.";
const OFF_POLICY: &str = "How many steps older than the trained policy the policy of a completion was; groups in flight; groups \
    dropped so far because they were too old.";
const MISMATCH: &str = "The engine's log-probabilities against the trainer's on the same tokens. on_policy_max_diff and \
    canary_max_diff compare the same policy, so they show differences of the engine, not staleness.";

/// One panel for every metric under `prefix` that any run logged, unless it is always 0.
fn figure(report: &Report, title: &str, caption: &str, prefix: &str) -> String {
    let mut seen = BTreeSet::new();
    let names = report.runs.iter().flat_map(|run| &run.metrics.names);
    let names = names.filter(|name| name.starts_with(prefix) && seen.insert(name.as_str()));
    let panels = names.map(|name| report.panel(&name[prefix.len()..], name)).collect();
    super::panels_figure(report, title, &(caption.to_string() + report.band_note()), panels)
}
