//! Grades a group and computes its advantages.

use crate::advantage::{AdvantageScale, group_advantages};
use crate::dataset::Dataset;
use crate::error::InputError;
use crate::task::Grade;
use crate::tokenizer::ChatTokenizer;
use crate::types::{Group, ScoredGroup};

/// Decodes, grades and compares the completions of a group.
pub fn score(
    group: Group,
    data: &Dataset,
    tokenizer: &ChatTokenizer,
    scale: AdvantageScale,
) -> Result<ScoredGroup, InputError> {
    let Group { job, completions } = group;
    let grader = &data.sources[job.arm].items[job.row].grader;
    let texts = completions.iter().map(|c| tokenizer.decode_completion(&c.tokens)).collect::<Result<Vec<_>, _>>()?;
    let grades: Vec<Grade> = texts.iter().map(|text| grader.grade(text)).collect();
    let rewards: Vec<f32> = grades.iter().map(Grade::score).collect();
    let advantages = group_advantages(&rewards, scale);
    Ok(ScoredGroup { job, completions, texts, grades, advantages })
}
