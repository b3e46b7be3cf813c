//! What a step is logged as: metrics by the field's names, and the lines of rollouts, curriculum.jsonl and decisions.jsonl.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Engine, Finish};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::curriculum::Gradients;
use crate::memory::process::{peak_mb, resident_mb};
use crate::metric_names::{self as names, ArmMetric};
use crate::pipeline::group::ScoredGroup;
use crate::pipeline::inputs::Inputs;
use crate::scheduler::{DropReason, Ended, Observed, Scheduler};
use crate::train::sample::Sample;

/// How the time of a step was spent.
pub struct StepTimes {
    since: Instant,
    wait_for_batch: Duration,
    pub train: Duration,
    pub publish: Duration,
}

impl StepTimes {
    /// `since`: the end of the previous step.
    pub fn new(since: Instant, wait_for_batch: Duration) -> Self {
        Self { since, wait_for_batch, train: Duration::ZERO, publish: Duration::ZERO }
    }

    /// Seconds of each part, and what follows from them. `wait_for_policy`: seconds that the dispatcher waited.
    pub fn metrics(
        &self,
        engine_busy: Duration,
        wait_for_policy: f64,
        batch: &[ScoredGroup],
    ) -> [(&'static str, f64); 12] {
        let step = self.since.elapsed().as_secs_f64();
        let train = self.train.as_secs_f64();
        let completions = batch.iter().flat_map(|g| &g.completions);
        let tokens: usize = completions.clone().map(|c| c.tokens.len()).sum();
        [
            (names::TIME_STEP, step),
            (names::TIME_GENERATE, engine_busy.as_secs_f64()),
            (names::TIME_TRAIN, train),
            (names::TIME_PUBLISH, self.publish.as_secs_f64()),
            (names::TIME_WAIT_FOR_BATCH, self.wait_for_batch.as_secs_f64()),
            (names::TIME_WAIT_FOR_POLICY, wait_for_policy),
            (names::TOKENS_PER_S, tokens as f64 / step),
            (names::COMPLETIONS_PER_S, completions.count() as f64 / step),
            (names::TRAINER_IDLE, (1.0 - train / step).max(0.0)),
            (names::ENGINE_IDLE, (1.0 - engine_busy.as_secs_f64() / step).max(0.0)),
            (names::MEMORY, resident_mb()),
            (names::PEAK_MEMORY, peak_mb()),
        ]
    }
}

/// Rewards, lengths and solved groups.
pub fn batch(batch: &[ScoredGroup]) -> [(&'static str, f64); 9] {
    let grades = || batch.iter().flat_map(|g| &g.grades);
    let completions = || batch.iter().flat_map(|g| &g.completions);
    let n = completions().count().max(1) as f64;
    let groups = batch.len().max(1) as f64;
    let share = |f: fn(&ScoredGroup) -> bool| batch.iter().filter(|g| f(g)).count() as f64 / groups;
    let solved_all = share(|g| g.grades.iter().all(|grade| grade.is_right()));
    let solved_none = share(|g| !g.grades.iter().any(|grade| grade.is_right()));
    let truncated = completions().filter(|c| c.finish == Finish::Length).count() as f64;
    [
        (names::REWARD, batch.iter().flat_map(|g| &g.rewards).map(|r| f64::from(*r)).sum::<f64>() / n),
        (
            names::FORMAT_REWARD,
            grades().map(|g| f64::from(g.part("format").unwrap_or(g.format_score))).sum::<f64>() / n,
        ),
        (
            names::ANSWER_REWARD,
            grades().map(|g| f64::from(g.part("answer").unwrap_or(g.answer_score))).sum::<f64>() / n,
        ),
        (names::ZERO_STD, share(|g| g.advantages.iter().all(|a| *a == 0.0))),
        (names::MEAN_LENGTH, completions().map(|c| c.tokens.len() as f64).sum::<f64>() / n),
        (names::CLIPPED_RATIO, truncated / n),
        (names::SOLVED_ALL, solved_all),
        (names::SOLVED_NONE, solved_none),
        (names::SOLVED_SOME, 1.0 - solved_all - solved_none),
    ]
}

/// The mean of each part of the reward, over the completions that have it. `format` and `answer` are in [`batch`].
pub fn parts(batch: &[ScoredGroup]) -> Vec<(String, f64)> {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for part in batch.iter().flat_map(|group| &group.grades).flat_map(|grade| &grade.parts) {
        let (sum, n) = sums.entry(&part.name).or_default();
        (*sum, *n) = (*sum + f64::from(part.score), *n + 1);
    }
    let others = sums.into_iter().filter(|(name, _)| !["format", "answer"].contains(name));
    others.map(|(name, (sum, n))| (names::part_mean(name), sum / n as f64)).collect()
}

/// How graders that are not built in did; nothing if there is none. `busy`: how long they worked during the step.
pub fn graders(inputs: &Inputs, busy: Duration) -> Vec<(&'static str, f64)> {
    if inputs.only_rules {
        return Vec::new();
    }
    let stats = inputs.scorers.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    vec![
        (names::TIME_GRADE, busy.as_secs_f64()),
        (names::TIME_GRADE_SLOWEST, stats.take_slowest()),
        (names::GRADER_RESTARTS, count(&stats.restarts)),
        (names::GRADER_TIMEOUTS, count(&stats.timeouts)),
        (names::GRADER_FAILURES, count(&stats.failures)),
    ]
}

/// What the engine counted since its start.
pub fn engine(engine: &impl Engine) -> Vec<(String, f64)> {
    engine.counters().into_iter().map(|(name, count)| (names::of_engine(name), count as f64)).collect()
}

/// The state of the curriculum: the weights that the latest job was drawn with, the scores, and the ledger.
pub fn curriculum(scheduler: &Scheduler) -> Vec<(String, f64)> {
    let ledger = scheduler.ledger();
    let mut values: Vec<(String, f64)> = [
        (names::OFF_POLICY_DROPPED, ledger.dropped_for(DropReason::Stale) as f64),
        (names::OFF_POLICY_IN_FLIGHT, scheduler.in_flight() as f64),
        (names::GROUPS_DROPPED, ledger.dropped.values().sum::<u64>() as f64),
        (names::GROUPS_FAILED, ledger.dropped_for(DropReason::Failed) as f64),
        (names::GROUPS_UNGRADED, ledger.dropped_for(DropReason::Ungraded) as f64),
        (names::FILTERED_SOLVED_ALL, ledger.dropped_for(DropReason::SolvedAll) as f64),
        (names::FILTERED_SOLVED_NONE, ledger.dropped_for(DropReason::SolvedNone) as f64),
        (names::TOTAL_TOKENS, ledger.tokens as f64),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec();
    let (scores, counts) = (scheduler.scores(), scheduler.counts());
    for (arm, source) in scheduler.sources().iter().enumerate() {
        values.extend([
            (ArmMetric::Weight.of(source), scheduler.weights()[arm]),
            (ArmMetric::Learnability.of(source), scores[arm].value),
            (ArmMetric::Bonus.of(source), scores[arm].bonus),
            (ArmMetric::Count.of(source), counts[arm] as f64),
            (ArmMetric::Dispatched.of(source), ledger.dispatched[arm] as f64),
            (ArmMetric::Trained.of(source), ledger.trained[arm] as f64),
        ]);
    }
    values
}

/// A completion in rollouts/step_N.jsonl.
#[derive(Serialize)]
pub struct RolloutLine<'a> {
    step: u64,
    job: u64,
    data_source: &'a str,
    row: usize,
    /// What the chat template began of the text that was graded: `prefill` and `completion` together.
    #[serde(skip_serializing_if = "str::is_empty")]
    prefill: &'a str,
    completion: &'a str,
    reward: f32,
    format_score: f32,
    answer_score: f32,
    #[serde(skip_serializing_if = "Map::is_empty")]
    parts: Map<String, Value>,
    advantage: f32,
    tokens: usize,
    finish: Finish,
    policy_step: u64,
    last_policy_step: u64,
    adapter: &'a str,
    /// The server that sampled it; absent: this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
}

/// Every completion of a batch, in the order of dispatch.
pub fn rollout_lines<'a>(
    step: u64,
    batch: &'a [ScoredGroup],
    sources: &'a [String],
) -> impl Iterator<Item = RolloutLine<'a>> {
    batch.iter().flat_map(move |group| {
        (0..group.completions.len()).map(move |i| {
            let (completion, grade) = (&group.completions[i], &group.grades[i]);
            RolloutLine {
                step,
                job: group.job.id,
                data_source: &sources[group.job.arm],
                row: group.job.row,
                prefill: &group.prefill,
                completion: &group.texts[i],
                reward: group.rewards[i],
                format_score: grade.format_score,
                answer_score: grade.answer_score,
                parts: grade.parts.iter().map(|part| (part.name.to_string(), number(part.score))).collect(),
                advantage: group.advantages[i],
                tokens: completion.tokens.len(),
                finish: completion.finish,
                policy_step: completion.policy.step,
                last_policy_step: completion.last_policy.step,
                adapter: completion.policy.adapter.short(),
                endpoint: completion.endpoint.as_deref(),
            }
        })
    })
}

/// Every completion of a batch exactly as the trainer received it. `samples` must be in the order of the batch.
pub fn sample_lines<'a>(
    batch: &'a [ScoredGroup],
    samples: &'a [Sample],
    sources: &'a [String],
) -> impl Iterator<Item = Value> + 'a {
    let jobs = batch.iter().flat_map(|group| group.completions.iter().map(move |_| &group.job));
    jobs.zip(samples).map(|(job, sample)| {
        json!({"job": job.id, "data_source": sources[job.arm], "row": job.row, "prompt": *sample.prompt,
            "completion": sample.completion, "policy_step": sample.policy_step, "truncated": sample.truncated,
            "advantage": number(sample.advantage),
            "rollout_log_probs": sample.rollout_log_probs.iter().map(|x| number(*x)).collect::<Vec<_>>()})
    })
}

/// The groups that the curriculum observed during a step, in that order, in the form that `curriculum replay` reads.
pub fn observations(step: u64, groups: &[Observed], gradients: &Gradients, sources: &[String]) -> Value {
    let one = |Observed { drawn, group }: &Observed| {
        let in_flight = sources.iter().zip(&drawn.in_flight).filter(|(_, groups)| **groups > 0);
        let in_flight: Map<String, Value> = in_flight.map(|(name, groups)| (name.clone(), json!(groups))).collect();
        json!({"source": sources[group.arm], "rewards": group.rewards, "advantages": group.advantages,
            "row": group.row, "tokens": group.tokens, "drawn": {"step": drawn.step, "seen": drawn.seen, "in_flight": in_flight,
            "probability": group.probability}})
    };
    let mut line = json!({"step": step, "observations": groups.iter().map(one).collect::<Vec<_>>()});
    if !gradients.is_empty() {
        let by_name = gradients.iter().map(|(arm, gradient)| (sources[*arm].clone(), json!(gradient)));
        line["gradients"] = Value::Object(by_name.collect());
    }
    line
}

/// The jobs that ended during a step: their source, the weights and scores of their draw (one per arm), and their outcome.
pub fn decisions(step: u64, ended: &[Ended], sources: &[String]) -> Value {
    let one = |Ended { job, decision, dropped }: &Ended| {
        json!({"job": job.id, "drawn_at_step": decision.drawn.step, "source": sources[job.arm], "row": job.row,
            "outcome": dropped.map_or(json!("trained"), |reason| json!(reason)),
            "weights": decision.weights, "values": decision.values, "bonuses": decision.bonuses})
    };
    json!({"step": step, "sources": sources, "decisions": ended.iter().map(one).collect::<Vec<_>>()})
}

/// JSON has no NaN and no infinity. They become the texts `NaN`, `inf` and `-inf`.
fn number(x: f32) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_become_texts() {
        let check = |x: f32, expected: Value| assert_eq!(number(x), expected);
        check(-0.5, json!(-0.5));
        check(f32::NAN, json!("NaN"));
        check(f32::INFINITY, json!("inf"));
        check(f32::NEG_INFINITY, json!("-inf"));
    }
}
