//! What a run prints at each step, and its final table.

use super::metrics::MetricsLine;
use super::score::SourceScore;
use crate::metric_names::{self as names, ArmMetric};
use crate::table::table;

/// The number of distributions in a progress line.
const TOP: usize = 3;

/// `step  12/100  reward +0.31  answer -0.62  8.1 s  3211 tok/s  kk_logic_4 22% …`
pub fn step_line(max_steps: u64, line: &MetricsLine, sources: &[String]) -> String {
    let mut weights: Vec<(f64, &String)> = sources.iter().map(|s| (line.get(&ArmMetric::Weight.of(s)), s)).collect();
    weights.sort_by(|a, b| b.0.total_cmp(&a.0));
    let top: Vec<String> = weights.iter().take(TOP).map(|(w, name)| format!("{name} {:.0}%", 100.0 * w)).collect();
    format!(
        "step {:>4}/{max_steps}  reward {:+.2}  answer {:+.2}  {:>4.0} tokens  {:.1} s  {:>5.0} tok/s  {}",
        line.get(names::STEP),
        line.get(names::REWARD),
        line.get(names::ANSWER_REWARD),
        line.get(names::MEAN_LENGTH),
        line.get(names::TIME_STEP),
        line.get(names::TOKENS_PER_S),
        top.join("  "),
    )
}

/// One line for an evaluation: the mean, and the share of right answers for each distribution.
pub fn eval_line(step: u64, scores: &[SourceScore]) -> String {
    let mean = |of| SourceScore::mean(scores, of);
    let each: Vec<String> = scores.iter().map(|s| format!("{:.0}", 100.0 * s.avg_at_k)).collect();
    format!(
        "eval at step {step}: answer reward {:+.3}, right {:.1}%  (by distribution, %: {})",
        mean(|s| s.answer_reward),
        100.0 * mean(|s| s.avg_at_k),
        each.join(" "),
    )
}

/// Answer reward and share of right answers before and after, and the number of groups trained on, per distribution.
pub fn final_table(first: &[SourceScore], last: &[SourceScore], trained: &[u64]) -> String {
    let mut table = table([
        "distribution",
        "answer reward before",
        "after",
        "change",
        "right before",
        "after",
        "groups trained on",
    ]);
    for ((before, after), trained) in first.iter().zip(last).zip(trained) {
        table.add_row(row(&before.source, before, after, &trained.to_string()));
    }
    let (before, after) = (mean(first), mean(last));
    table.add_row(row("mean", &before, &after, &trained.iter().sum::<u64>().to_string()));
    table.to_string()
}

fn row(name: &str, before: &SourceScore, after: &SourceScore, trained: &str) -> Vec<String> {
    vec![
        name.to_string(),
        format!("{:+.2}", before.answer_reward),
        format!("{:+.2}", after.answer_reward),
        format!("{:+.2}", after.answer_reward - before.answer_reward),
        format!("{:.0}%", 100.0 * before.avg_at_k),
        format!("{:.0}%", 100.0 * after.avg_at_k),
        trained.to_string(),
    ]
}

fn mean(scores: &[SourceScore]) -> SourceScore {
    let mean = |of| SourceScore::mean(scores, of);
    SourceScore {
        source: "mean".into(),
        prompts: scores.iter().map(|s| s.prompts).sum(),
        reward: mean(|s| s.reward),
        answer_reward: mean(|s| s.answer_reward),
        format_reward: mean(|s| s.format_reward),
        avg_at_k: mean(|s| s.avg_at_k),
        pass_at_k: mean(|s| s.pass_at_k),
        length: mean(|s| s.length),
    }
}
