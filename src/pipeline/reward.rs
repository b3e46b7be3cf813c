//! Grades groups, computes their advantages, and tells the curriculum.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_channel::{Receiver, Sender};
use engine::Completion;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::activity::Work;
use super::group::{Group, ScoredGroup};
use super::inputs::Inputs;
use super::rollout::RolledOut;
use super::shared::SharedScheduler;
use crate::advantage::{AdvantageScale, group_advantages};
use crate::error::InputError;
use crate::reward::GradingError;
use crate::scheduler::{DropReason, Job, Outcome};
use crate::task::Grade;

/// This many groups in a row that one grader cannot grade end the run.
const MAX_FAILURES: usize = 3;

/// A scored group, and the slot that it holds until it is in a batch.
pub struct HeldGroup {
    pub group: ScoredGroup,
    /// None for a group whose grader is not built in: its slot is free when it is generated, so that a slow grader does not
    /// hold back the engine. Admission bounds how many groups there are.
    pub slot: Option<OwnedSemaphorePermit>,
}

/// Scores each group, lets the curriculum observe it, and hands it on. Graders that are built in answer at once. The others
/// work on all their groups at the same time, so a slow group holds back no other. A group that cannot be graded is dropped,
/// also if a grader that is built in panics: after a resume with the same seed it would panic again.
///
/// # Errors
/// Tokens that the tokenizer cannot decode; the grader's error, if `MAX_FAILURES` groups in a row cannot be graded.
pub async fn score_groups(
    shared: Arc<SharedScheduler>,
    inputs: Arc<Inputs>,
    groups: Receiver<RolledOut>,
    scored: Sender<HeldGroup>,
) -> Result<()> {
    let settings = RewardSettings::of(&inputs);
    let mut failures = Failures::default();
    let mut grading = JoinSet::new();
    let mut is_open = true;
    while is_open || !grading.is_empty() {
        let (outcome, slot) = tokio::select! {
            rolled_out = groups.recv(), if is_open => match rolled_out {
                Err(_) => {
                    is_open = false;
                    continue;
                }
                Ok(RolledOut::Failed { id }) => {
                    shared.change(|scheduler| scheduler.settle(id, Outcome::Dropped(DropReason::Failed)));
                    continue;
                }
                Ok(RolledOut::Group { group, slot }) => {
                    let is_rule = inputs.train.item(group.job.arm, group.job.row)?.grader.is_rule();
                    let (inputs, shared) = (inputs.clone(), shared.clone());
                    if !is_rule {
                        drop(slot);
                        shared.wake();
                        grading.spawn(async move {
                            let (_busy, _working) = (shared.grading_clock.enter(), shared.activity.begin(Work::Grading));
                            score(group, &inputs, &settings).await
                        });
                        continue;
                    }
                    let _working = shared.activity.begin(Work::Grading);
                    (score(group, &inputs, &settings).await?, Some(slot))
                }
            },
            Some(result) = grading.join_next() => (result.context("a grading panicked")??, None),
        };
        let group = match outcome {
            Ok(group) => group,
            Err(ungraded) => {
                let id = failures.failed(&inputs, ungraded)?;
                shared.change(|scheduler| scheduler.settle(id, Outcome::Dropped(DropReason::Ungraded)));
                continue;
            }
        };
        failures.succeeded(&inputs, &group.job)?;
        // Always divided by the group's standard deviation, whatever the loss uses: the curriculum's temperature is in this unit.
        let (rewards, advantages) = (group.rewards.clone(), group_advantages(&group.rewards, AdvantageScale::GroupStd));
        shared.lock().observe(group.job.id, rewards, advantages, group.tokens() as u64);
        if scored.send(HeldGroup { group, slot }).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A group that could not be graded.
struct Ungraded {
    job: Job,
    error: GradingError,
}

/// Failures in a row, by grader.
#[derive(Default)]
struct Failures(BTreeMap<String, usize>);

impl Failures {
    fn succeeded(&mut self, inputs: &Inputs, job: &Job) -> Result<()> {
        if !self.0.is_empty() {
            self.0.remove(&inputs.train.item(job.arm, job.row)?.grader.label());
        }
        Ok(())
    }

    /// The job to drop.
    fn failed(&mut self, inputs: &Inputs, Ungraded { job, error }: Ungraded) -> Result<u64> {
        let failures = self.0.entry(inputs.train.item(job.arm, job.row)?.grader.label()).or_default();
        *failures += 1;
        let (source, row) = (inputs.train.sources[job.arm].name.as_str(), job.row);
        if *failures >= MAX_FAILURES {
            return Err(error).with_context(|| {
                format!(
                    "{failures} groups in a row could not be graded; the last was job {}, row {row} of {source}",
                    job.id
                )
            });
        }
        tracing::warn!(job = job.id, row, source, %error, "a group could not be graded; another is drawn in its place");
        Ok(job.id)
    }
}

/// How grades become rewards and advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardSettings {
    pub scale: AdvantageScale,
    /// Longest completion allowed, in tokens.
    pub max_new_tokens: usize,
    /// The penalty begins this many tokens before the longest completion; 0: no penalty.
    pub overlong_buffer: usize,
    /// The penalty of a completion of the greatest length.
    pub overlong_penalty: f32,
    /// Longest sequence of the model, prompt and completion together.
    pub context: usize,
}

impl RewardSettings {
    fn of(inputs: &Inputs) -> Self {
        let config = &inputs.config;
        Self {
            scale: config.advantage.scale,
            max_new_tokens: config.engine.max_new_tokens,
            overlong_buffer: config.reward.overlong_buffer,
            overlong_penalty: config.reward.overlong_penalty,
            context: inputs.decoder.max_position_embeddings,
        }
    }

    /// The penalty of a completion of `tokens` tokens after a prompt of `prompt_tokens` tokens: 0 before the buffer, then rising
    /// linearly to the whole penalty (DAPO's soft overlong punishment, arXiv 2503.14476, equation 13). If the context ends before
    /// `max_new_tokens`, the buffer ends with the context.
    pub fn penalty(&self, tokens: usize, prompt_tokens: usize) -> f32 {
        let longest = self.max_new_tokens.min(self.context.saturating_sub(prompt_tokens));
        let over = (tokens + self.overlong_buffer).saturating_sub(longest);
        if over == 0 || self.overlong_buffer == 0 {
            return 0.0;
        }
        self.overlong_penalty * (over as f32 / self.overlong_buffer as f32).min(1.0)
    }
}

/// Decodes, grades and compares the completions of a group.
async fn score(
    group: Group,
    inputs: &Inputs,
    settings: &RewardSettings,
) -> Result<Result<ScoredGroup, Ungraded>, InputError> {
    let Group { job, completions } = group;
    let item = inputs.train.item(job.arm, job.row)?;
    let decode = |completion: &Completion| inputs.tokenizer.decode_completion(&completion.tokens);
    let texts = completions.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let graded: Vec<String> = texts.iter().map(|text| item.graded(text)).collect();
    let grades: Vec<Grade> = match item.grader.grade(&item.row, &graded).await {
        Ok(grades) => grades,
        Err(error) => return Ok(Err(Ungraded { job, error })),
    };
    let penalty = |completion: &Completion| settings.penalty(completion.tokens.len(), item.prompt.len());
    let reward = |(grade, completion): (&Grade, &Completion)| grade.score() - penalty(completion);
    let rewards: Vec<f32> = grades.iter().zip(&completions).map(reward).collect();
    let advantages = group_advantages(&rewards, settings.scale);
    let prefill = item.prefill.clone();
    Ok(Ok(ScoredGroup { job, completions, prefill, texts, grades, rewards, advantages }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_grows_over_the_buffer() {
        let settings = RewardSettings {
            scale: AdvantageScale::None,
            max_new_tokens: 100,
            overlong_buffer: 20,
            overlong_penalty: 2.0,
            context: 1000,
        };
        assert_eq!([0, 80, 81, 90, 100].map(|tokens| settings.penalty(tokens, 900)), [0.0, 0.0, 0.1, 1.0, 2.0]);
        assert_eq!(RewardSettings { overlong_buffer: 0, ..settings }.penalty(100, 900), 0.0);
        // Cut off by the context after 60 tokens.
        assert_eq!([40, 50, 60].map(|tokens| settings.penalty(tokens, 940)), [0.0, 1.0, 2.0]);
    }
}
