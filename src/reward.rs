//! Grades a group and computes its advantages.

use engine::Completion;

use crate::advantage::{AdvantageScale, group_advantages};
use crate::dataset::Dataset;
use crate::error::InputError;
use crate::task::Grade;
use crate::tokenizer::ChatTokenizer;
use crate::types::{Group, ScoredGroup};

/// How grades become rewards and advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardSettings {
    pub scale: AdvantageScale,
    /// Longest completion allowed, in tokens.
    pub max_new_tokens: usize,
    /// So many tokens before the longest the penalty begins; 0: none.
    pub overlong_buffer: usize,
    /// What a completion of the longest length loses.
    pub overlong_penalty: f32,
    /// Longest sequence of the model, prompt and completion together.
    pub context: usize,
}

impl RewardSettings {
    /// What a completion of `tokens` tokens loses after a prompt of `prompt_tokens`: 0 up to the buffer, from there on
    /// linearly up to the whole penalty (DAPO's soft overlong punishment, arXiv 2503.14476, equation 13). Where the context
    /// ends before `max_new_tokens`, the buffer ends with it.
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
pub fn score(
    group: Group,
    data: &Dataset,
    tokenizer: &ChatTokenizer,
    settings: &RewardSettings,
) -> Result<ScoredGroup, InputError> {
    let Group { job, completions } = group;
    let item = &data.sources[job.arm].items[job.row];
    let texts = completions.iter().map(|c| tokenizer.decode_completion(&c.tokens)).collect::<Result<Vec<_>, _>>()?;
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
