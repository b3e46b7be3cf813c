//! The names of the metrics in metrics.jsonl. Each name is defined once, for the code that writes it and the code that
//! reads it.
//!
//! Scripts rely on the names. The tests in tests/ spell them out, so that a change is noticed.

pub const STEP: &str = "step";

pub const REWARD: &str = "reward";
pub const FORMAT_REWARD: &str = "rewards/format/mean";
pub const ANSWER_REWARD: &str = "rewards/answer/mean";
/// Share of groups whose completions all have the same reward.
pub const ZERO_STD: &str = "frac_reward_zero_std";
pub const MEAN_LENGTH: &str = "completions/mean_length";
/// Share of completions that were cut off at the longest length.
pub const CLIPPED_RATIO: &str = "completions/clipped_ratio";

pub const SOLVED_ALL: &str = "groups/solved_all";
pub const SOLVED_SOME: &str = "groups/solved_some";
pub const SOLVED_NONE: &str = "groups/solved_none";
pub const GROUPS_DROPPED: &str = "groups/dropped";
pub const GROUPS_FAILED: &str = "groups/failed";
pub const GROUPS_UNGRADED: &str = "groups/ungraded";
pub const FILTERED_SOLVED_ALL: &str = "groups/filtered_solved_all";
pub const FILTERED_SOLVED_NONE: &str = "groups/filtered_solved_none";

/// The prefix of the staleness metrics.
pub const OFF_POLICY: &str = "off_policy/";
pub const OFF_POLICY_MEAN: &str = "off_policy/mean";
pub const OFF_POLICY_MAX: &str = "off_policy/max";
pub const OFF_POLICY_DROPPED: &str = "off_policy/dropped";
pub const OFF_POLICY_IN_FLIGHT: &str = "off_policy/in_flight";

/// The prefix of the metrics of the trainer.
pub const ACTOR: &str = "actor/";
pub const PG_LOSS: &str = "actor/pg_loss";
pub const KL_LOSS: &str = "actor/kl_loss";
pub const PG_CLIPFRAC: &str = "actor/pg_clipfrac";
pub const PPO_KL: &str = "actor/ppo_kl";
pub const GRAD_NORM: &str = "actor/grad_norm";
pub const LR: &str = "actor/lr";
pub const SKIPPED_UPDATES: &str = "actor/skipped_updates";
pub const ENTROPY: &str = "actor/entropy";

/// The prefix of the metrics about the difference between engine and trainer.
pub const ROLLOUT_CORR: &str = "rollout_corr/";
pub const MISMATCH_KL: &str = "rollout_corr/kl";
pub const MISMATCH_K3_KL: &str = "rollout_corr/k3_kl";
pub const MISMATCH_IS_MEAN: &str = "rollout_corr/is_mean";
pub const MISMATCH_IS_EFF_SAMPLE_SIZE: &str = "rollout_corr/is_eff_sample_size";
pub const MISMATCH_ON_POLICY_MAX_DIFF: &str = "rollout_corr/on_policy_max_diff";
pub const MISMATCH_CANARY_MAX_DIFF: &str = "rollout_corr/canary_max_diff";

pub const TIME_STEP: &str = "time/step";
pub const TIME_GENERATE: &str = "time/generate";
pub const TIME_TRAIN: &str = "time/train";
pub const TIME_PUBLISH: &str = "time/publish";
pub const TIME_WAIT_FOR_BATCH: &str = "time/wait_for_batch";
pub const TIME_WAIT_FOR_POLICY: &str = "time/wait_for_policy";
pub const TIME_EVAL: &str = "time/eval";
/// Seconds during which a grader that is not built in was at work, and of its slowest group.
pub const TIME_GRADE: &str = "time/grade";
pub const TIME_GRADE_SLOWEST: &str = "time/grade_slowest";

/// Counts of graders that are not built in, since the start of the program.
pub const GRADER_RESTARTS: &str = "grader/restarts";
pub const GRADER_TIMEOUTS: &str = "grader/timeouts";
pub const GRADER_FAILURES: &str = "grader/failures";

pub const TOKENS_PER_S: &str = "perf/tokens_per_s";
pub const COMPLETIONS_PER_S: &str = "perf/completions_per_s";
pub const TRAINER_IDLE: &str = "perf/trainer_idle";
pub const ENGINE_IDLE: &str = "perf/engine_idle";
/// Memory of the process in MB (10^6 bytes): the present value, and the peak.
pub const MEMORY: &str = "perf/memory";
pub const PEAK_MEMORY: &str = "perf/peak_memory";
/// Tokens of all training completions since the start, including those of dropped groups.
pub const TOTAL_TOKENS: &str = "perf/total_tokens";

/// The prefix of what an engine counts, since the start of the program.
const ENGINE: &str = "engine/";

/// The source name of the means over all distributions in an evaluation.
pub const MEAN: &str = "mean";

const CURRICULUM: &str = "curriculum/";
const EVAL: &str = "eval/";

/// What is logged of each distribution at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmMetric {
    /// The probability that the latest job was drawn with.
    Weight,
    Learnability,
    Bonus,
    /// n_d.
    Count,
    /// Groups drawn since the start.
    Dispatched,
    /// Groups trained on since the start.
    Trained,
}

impl ArmMetric {
    /// `curriculum/<source>/…`.
    pub fn of(self, source: &str) -> String {
        let what = match self {
            Self::Weight => "weight",
            Self::Learnability => "learnability",
            Self::Bonus => "bonus",
            Self::Count => "n",
            Self::Dispatched => "dispatched",
            Self::Trained => "trained",
        };
        format!("{CURRICULUM}{source}/{what}")
    }
}

/// What is logged of each distribution at an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalMetric {
    Reward,
    AnswerReward,
    FormatReward,
    /// Share of right completions, with k per prompt.
    Avg(usize),
    /// Share of prompts with a right completion among k.
    Pass(usize),
    MeanLength,
}

impl EvalMetric {
    /// `eval/<source>/…`; the source is [`MEAN`] for the mean over all distributions.
    pub fn of(self, source: &str) -> String {
        match self {
            Self::Reward => format!("{EVAL}{source}/reward"),
            Self::AnswerReward => format!("{EVAL}{source}/answer_reward"),
            Self::FormatReward => format!("{EVAL}{source}/format_reward"),
            Self::Avg(k) => format!("{}{k}", avg_at(source)),
            Self::Pass(k) => format!("{EVAL}{source}/pass@{k}"),
            Self::MeanLength => format!("{EVAL}{source}/mean_length"),
        }
    }
}

/// What an engine counts by this name.
pub fn of_engine(counter: &str) -> String {
    format!("{ENGINE}{counter}")
}

/// The mean of one part of the reward.
pub fn part_mean(part: &str) -> String {
    format!("rewards/{part}/mean")
}

/// The start of the name of [`EvalMetric::Avg`], without k.
pub fn avg_at(source: &str) -> String {
    format!("{EVAL}{source}/avg@")
}

/// The distribution that a metric is about; none for the mean of all, and for a metric that is not about one. A source
/// may have slashes in its name.
pub fn source_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(CURRICULUM).or_else(|| name.strip_prefix(EVAL))?;
    let (source, _) = rest.rsplit_once('/')?;
    (source != MEAN).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_source_give_it_back() {
        assert_eq!(ArmMetric::Weight.of("kk/3"), "curriculum/kk/3/weight");
        assert_eq!(EvalMetric::Avg(2).of("kk/3"), "eval/kk/3/avg@2");
        assert_eq!(source_of(&ArmMetric::Weight.of("kk/3")), Some("kk/3"));
        assert_eq!(source_of(&EvalMetric::Pass(4).of("a")), Some("a"));
        assert_eq!(source_of(&EvalMetric::Reward.of(MEAN)), None);
        assert_eq!(source_of(TIME_STEP), None);
    }
}
