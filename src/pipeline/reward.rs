//! Grades groups, computes their advantages, and tells the curriculum.

use std::sync::Arc;

use anyhow::Result;
use async_channel::{Receiver, Sender};
use engine::Completion;
use tokio::sync::OwnedSemaphorePermit;

use super::group::{Group, ScoredGroup};
use super::inputs::Inputs;
use super::rollout::RolledOut;
use super::shared::SharedScheduler;
use crate::advantage::{AdvantageScale, group_advantages};
use crate::error::InputError;
use crate::scheduler::{DropReason, Outcome};
use crate::task::Grade;

/// A scored group, and the slot that it holds until it is in a batch.
pub struct HeldGroup {
    pub group: ScoredGroup,
    pub slot: OwnedSemaphorePermit,
}

/// Scores each group, lets the curriculum observe it, and hands it on.
///
/// # Errors
/// Tokens that the tokenizer cannot decode.
pub async fn score_groups(
    shared: Arc<SharedScheduler>,
    inputs: Arc<Inputs>,
    groups: Receiver<RolledOut>,
    scored: Sender<HeldGroup>,
) -> Result<()> {
    let settings = RewardSettings::of(&inputs);
    while let Ok(rolled_out) = groups.recv().await {
        let (group, slot) = match rolled_out {
            RolledOut::Group { group, slot } => (group, slot),
            RolledOut::Failed { id } => {
                shared.change(|scheduler| scheduler.settle(id, Outcome::Dropped(DropReason::Failed)));
                continue;
            }
        };
        let group = score(group, &inputs, &settings)?;
        // Always divided by the group's standard deviation, whatever the loss uses: the curriculum's temperature is in this unit.
        let (rewards, advantages) = (group.rewards.clone(), group_advantages(&group.rewards, AdvantageScale::GroupStd));
        shared.lock().observe(group.job.id, rewards, advantages, group.tokens() as u64);
        if scored.send(HeldGroup { group, slot }).await.is_err() {
            break;
        }
    }
    Ok(())
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
fn score(group: Group, inputs: &Inputs, settings: &RewardSettings) -> Result<ScoredGroup, InputError> {
    let Group { job, completions } = group;
    let item = inputs.train.item(job.arm, job.row)?;
    let decode = |completion: &Completion| inputs.tokenizer.decode_completion(&completion.tokens);
    let texts = completions.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let grades: Vec<Grade> = texts.iter().map(|text| item.grader.grade(text)).collect();
    let penalty = |completion: &Completion| settings.penalty(completion.tokens.len(), item.prompt.len());
    let reward = |(grade, completion): (&Grade, &Completion)| grade.score() - penalty(completion);
    let rewards: Vec<f32> = grades.iter().zip(&completions).map(reward).collect();
    let advantages = group_advantages(&rewards, settings.scale);
    Ok(ScoredGroup { job, completions, texts, grades, rewards, advantages })
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
