//! The logs of a step, under the names that are common in the field.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::eval::SourceScore;
use crate::metric_names::{self as names, ArmMetric, EvalMetric};
use crate::scheduler::{DropReason, Ended, Observed, Scheduler};
use crate::train::trainer::Sample;
use crate::types::ScoredGroup;

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
}

/// One line of metrics.jsonl, to be filled.
pub struct Line {
    values: Map<String, Value>,
}

impl Line {
    pub fn new(step: u64) -> Self {
        Self { values: Map::from_iter([(names::STEP.to_string(), step.into())]) }
    }

    /// The value of a metric; 0 if it was not logged.
    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).and_then(Value::as_f64).unwrap_or(0.0)
    }

    pub fn into_map(self) -> Map<String, Value> {
        self.values
    }

    /// Adds values; a value that is not finite becomes null.
    pub fn values<K: Into<String>>(&mut self, values: impl IntoIterator<Item = (K, f64)>) {
        self.values.extend(values.into_iter().map(|(name, value)| (name.into(), json!(value))));
    }

    /// Rewards, lengths and solved groups.
    pub fn batch(&mut self, batch: &[ScoredGroup]) {
        let grades = || batch.iter().flat_map(|g| &g.grades);
        let completions = || batch.iter().flat_map(|g| &g.completions);
        let n = completions().count().max(1) as f64;
        let groups = batch.len().max(1) as f64;
        let share = |f: fn(&ScoredGroup) -> bool| batch.iter().filter(|g| f(g)).count() as f64 / groups;
        let solved_all = share(|g| g.grades.iter().all(|grade| grade.is_right()));
        let solved_none = share(|g| !g.grades.iter().any(|grade| grade.is_right()));
        let truncated = completions().filter(|c| c.finish == engine::Finish::Length).count() as f64;
        self.values([
            (names::REWARD, batch.iter().flat_map(|g| &g.rewards).map(|r| f64::from(*r)).sum::<f64>() / n),
            (names::FORMAT_REWARD, grades().map(|g| f64::from(g.format_score)).sum::<f64>() / n),
            (names::ANSWER_REWARD, grades().map(|g| f64::from(g.answer_score)).sum::<f64>() / n),
            (names::ZERO_STD, share(|g| g.advantages.iter().all(|a| *a == 0.0))),
            (names::MEAN_LENGTH, completions().map(|c| c.tokens.len() as f64).sum::<f64>() / n),
            (names::CLIPPED_RATIO, truncated / n),
            (names::SOLVED_ALL, solved_all),
            (names::SOLVED_NONE, solved_none),
            (names::SOLVED_SOME, 1.0 - solved_all - solved_none),
        ]);
    }

    /// The state of the curriculum: the weights that the latest job was drawn with, the scores, and the ledger.
    pub fn curriculum(&mut self, scheduler: &Scheduler) {
        let ledger = scheduler.ledger();
        self.values([
            (names::OFF_POLICY_DROPPED, ledger.dropped_for(DropReason::Stale) as f64),
            (names::OFF_POLICY_IN_FLIGHT, scheduler.in_flight() as f64),
            (names::GROUPS_DROPPED, ledger.dropped.values().sum::<u64>() as f64),
            (names::GROUPS_FAILED, ledger.dropped_for(DropReason::Failed) as f64),
            (names::FILTERED_SOLVED_ALL, ledger.dropped_for(DropReason::SolvedAll) as f64),
            (names::FILTERED_SOLVED_NONE, ledger.dropped_for(DropReason::SolvedNone) as f64),
            (names::TOTAL_TOKENS, ledger.tokens as f64),
        ]);
        let (scores, counts) = (scheduler.scores(), scheduler.counts());
        for (arm, source) in scheduler.sources().iter().enumerate() {
            self.values([
                (ArmMetric::Weight.of(source), scheduler.weights()[arm]),
                (ArmMetric::Learnability.of(source), scores[arm].value),
                (ArmMetric::Bonus.of(source), scores[arm].bonus),
                (ArmMetric::Count.of(source), counts[arm] as f64),
                (ArmMetric::Dispatched.of(source), ledger.dispatched[arm] as f64),
                (ArmMetric::Trained.of(source), ledger.trained[arm] as f64),
            ]);
        }
    }

    /// The seconds of each part, and what follows from them.
    pub fn times(&mut self, times: &StepTimes, engine_busy: Duration, wait_for_policy: f64, batch: &[ScoredGroup]) {
        let step = times.since.elapsed().as_secs_f64();
        let train = times.train.as_secs_f64();
        let completions = batch.iter().flat_map(|g| &g.completions);
        let tokens: usize = completions.clone().map(|c| c.tokens.len()).sum();
        self.values([
            (names::TIME_STEP, step),
            (names::TIME_GENERATE, engine_busy.as_secs_f64()),
            (names::TIME_TRAIN, train),
            (names::TIME_PUBLISH, times.publish.as_secs_f64()),
            (names::TIME_WAIT_FOR_BATCH, times.wait_for_batch.as_secs_f64()),
            (names::TIME_WAIT_FOR_POLICY, wait_for_policy),
            (names::TOKENS_PER_S, tokens as f64 / step),
            (names::COMPLETIONS_PER_S, completions.count() as f64 / step),
            (names::TRAINER_IDLE, (1.0 - train / step).max(0.0)),
            (names::ENGINE_IDLE, (1.0 - engine_busy.as_secs_f64() / step).max(0.0)),
            (names::MEMORY, memory_mb("VmRSS")),
            (names::PEAK_MEMORY, memory_mb("VmHWM")),
        ]);
    }

    /// An evaluation with `k` completions per prompt.
    pub fn eval(&mut self, scores: &[SourceScore], k: usize, seconds: f64) {
        scores.iter().for_each(|score| self.values(score.metrics(k)));
        let mean = |f: fn(&SourceScore) -> f64| scores.iter().map(f).sum::<f64>() / scores.len().max(1) as f64;
        self.values([
            (EvalMetric::Reward.of(names::MEAN), mean(|s| s.reward)),
            (EvalMetric::AnswerReward.of(names::MEAN), mean(|s| s.answer_reward)),
            (EvalMetric::Avg(k).of(names::MEAN), mean(|s| s.avg_at_k)),
            (names::TIME_EVAL.to_string(), seconds),
        ]);
    }
}

/// Resident memory of this process in MB (10^6 bytes): `VmRSS` is the present value, `VmHWM` the peak. 0 if the system
/// does not tell.
pub fn memory_mb(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map_or(0.0, |kib| kib * 1024.0 / 1e6)
}

/// A completion in rollouts/step_N.jsonl.
#[derive(Serialize)]
pub struct RolloutLine<'a> {
    step: u64,
    job: u64,
    data_source: &'a str,
    row: usize,
    completion: &'a str,
    reward: f32,
    format_score: f32,
    answer_score: f32,
    advantage: f32,
    tokens: usize,
    finish: engine::Finish,
    policy_step: u64,
    last_policy_step: u64,
    adapter: &'a str,
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
                completion: &group.texts[i],
                reward: group.rewards[i],
                format_score: grade.format_score,
                answer_score: grade.answer_score,
                advantage: group.advantages[i],
                tokens: completion.tokens.len(),
                finish: completion.finish,
                policy_step: completion.policy.step,
                last_policy_step: completion.last_policy.step,
                adapter: completion.policy.adapter.short(),
            }
        })
    })
}

/// Every completion of a batch exactly as the trainer received it; `samples` must be in the order of the batch.
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
pub fn observations(step: u64, groups: &[Observed], sources: &[String]) -> Value {
    let one = |Observed { drawn, group }: &Observed| {
        let in_flight = sources.iter().zip(&drawn.in_flight).filter(|(_, groups)| **groups > 0);
        let in_flight: Map<String, Value> = in_flight.map(|(name, groups)| (name.clone(), json!(groups))).collect();
        json!({"source": sources[group.arm], "rewards": group.rewards, "advantages": group.advantages,
            "tokens": group.tokens, "drawn": {"step": drawn.step, "seen": drawn.seen, "in_flight": in_flight,
            "probability": group.probability}})
    };
    json!({"step": step, "observations": groups.iter().map(one).collect::<Vec<_>>()})
}

/// The jobs that ended during a step: their source, the weights and scores of their draw (one per arm), and their
/// outcome.
pub fn decisions(step: u64, ended: &[Ended], sources: &[String]) -> Value {
    let one = |Ended { job, decision, dropped }: &Ended| {
        json!({"job": job.id, "drawn_at_step": decision.drawn.step, "source": sources[job.arm], "row": job.row,
            "outcome": dropped.map_or(json!("trained"), |reason| json!(reason)),
            "weights": decision.weights, "values": decision.values, "bonuses": decision.bonuses})
    };
    json!({"step": step, "sources": sources, "decisions": ended.iter().map(one).collect::<Vec<_>>()})
}

/// JSON has no NaN and no infinity: they become the texts `NaN`, `inf` and `-inf`.
fn number(x: f32) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}
