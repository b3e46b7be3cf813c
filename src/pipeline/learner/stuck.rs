//! A run that cannot learn says so: the signs in a batch, and the warning. [`Watch`](crate::run_dir::watch::Watch) decides when.

use std::collections::BTreeSet;
use std::fmt::Write;

use engine::Finish;

use crate::error::InputError;
use crate::pipeline::group::ScoredGroup;
use crate::pipeline::inputs::Inputs;
use crate::run_dir::watch::{LASTING, Sign};

/// The most characters of a completion or a prompt in a warning, from its start and from its end.
const SHOWN: usize = 160;

/// What a batch shows.
///
/// # Errors
/// A prompt that cannot be decoded.
pub fn signs(batch: &[ScoredGroup], inputs: &Inputs) -> Result<BTreeSet<Sign>, InputError> {
    let completions = || batch.iter().flat_map(|group| &group.completions);
    let grades = || batch.iter().flat_map(|group| &group.grades);
    let each = |shows: fn(&ScoredGroup) -> bool| batch.iter().all(shows);
    let rewards: Vec<f32> = batch.iter().flat_map(|group| group.rewards.iter().copied()).collect();
    let same_texts = each(|group| group.texts.len() > 1 && group.texts.windows(2).all(|pair| pair[0] == pair[1]));
    let truncated = completions().all(|completion| completion.finish == Finish::Length);
    let all_right = grades().all(|grade| grade.is_right());
    let no_format = has_no_format(batch, inputs)?;
    let found = [
        (Sign::NoAdvantage, each(|group| group.advantages.iter().all(|advantage| *advantage == 0.0))),
        (Sign::NoFormat, no_format),
        (Sign::AllTruncated, truncated),
        (Sign::PromptOpensTag, no_format && opens_tag(batch, inputs)?),
        (Sign::SameCompletions, same_texts),
        (Sign::AllRight, all_right),
        (Sign::NoneRight, !truncated && !grades().any(|grade| grade.is_right())),
        (Sign::OneScore, rewards.windows(2).all(|pair| pair[0] == pair[1]) && !all_right && !truncated && !same_texts),
    ];
    Ok(found.into_iter().filter(|(_, is_so)| *is_so).map(|(sign, _)| sign).collect())
}

/// Whether every completion was found to have the wrong format. Graders that are not built in have formats of their own.
fn has_no_format(batch: &[ScoredGroup], inputs: &Inputs) -> Result<bool, InputError> {
    let (right, wrong) = (inputs.config.grader.format_right, inputs.config.grader.format_wrong);
    for group in batch {
        let item = inputs.train.item(group.job.arm, group.job.row)?;
        if !item.grader.is_rule() || group.grades.iter().any(|grade| grade.format_score != wrong) {
            return Ok(false);
        }
    }
    Ok(wrong < right)
}

fn opens_tag(batch: &[ScoredGroup], inputs: &Inputs) -> Result<bool, InputError> {
    for group in batch {
        // What is graded together with the completion is no cause.
        if !group.prefill.is_empty() || !ends_inside_tag(&prompt_end(group, inputs)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `<think>` or `<answer>` is open at the end of the text.
fn ends_inside_tag(text: &str) -> bool {
    let last = |tag: &str| text.rfind(tag);
    ["think", "answer"].iter().any(|tag| {
        let open = last(&format!("<{tag}>"));
        // A prompt may explain the tags; only what is at its very end is the template's.
        open.is_some_and(|at| text[at..].trim_end().len() <= tag.len() + 2) && open > last(&format!("</{tag}>"))
    })
}

fn prompt_end(group: &ScoredGroup, inputs: &Inputs) -> Result<String, InputError> {
    let item = inputs.train.item(group.job.arm, group.job.row)?;
    let tail = &item.prompt[item.prompt.len().saturating_sub(SHOWN)..];
    inputs.tokenizer.decode_completion(tail)
}

/// The warning: what is wrong, the likely causes, and one completion of `batch`.
///
/// # Errors
/// A prompt that cannot be decoded.
pub fn describe(signs: &[Sign], batch: &[ScoredGroup], inputs: &Inputs) -> Result<String, InputError> {
    let max_new_tokens = inputs.config.engine.max_new_tokens;
    let texts = |symptoms: bool| {
        let some = signs.iter().filter(|sign| sign.is_symptom() == symptoms);
        some.map(|sign| sign.text(max_new_tokens)).collect::<Vec<_>>()
    };
    let mut text = format!("this run cannot learn: for {LASTING} steps, {}", texts(true).join(", and "));
    for cause in texts(false) {
        let _ = write!(text, "\n  likely cause  {cause}");
    }
    let Some(group) = batch.first() else { return Ok(text) };
    let (completion, grade) = (&group.completions[0], &group.grades[0]);
    let _ = write!(
        text,
        "\n  prompt ends   {}\n  completion    {}\n  its grade     format {}, answer {}, reward {}; {} tokens, {}",
        shown(&prompt_end(group, inputs)?, 0),
        shown(&group.texts[0], SHOWN),
        grade.format_score,
        grade.answer_score,
        group.rewards[0],
        completion.tokens.len(),
        if completion.finish == Finish::Length { "cut off" } else { "ended by itself" },
    );
    Ok(text)
}

/// The text in quotes on one line, without control characters: its first `start` characters and its last [`SHOWN`].
fn shown(text: &str, start: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    let quoted = |chars: &[char]| format!("{:?}", chars.iter().collect::<String>());
    match all.len() <= start + SHOWN {
        true => quoted(&all),
        false if start == 0 => format!("… {}", quoted(&all[all.len() - SHOWN..])),
        false => format!("{} … {}", quoted(&all[..start]), quoted(&all[all.len() - SHOWN..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_a_prompt_leaves_open() {
        let check = |text: &str, expected: bool| assert_eq!(ends_inside_tag(text), expected, "{text:?}");
        check("assistant\n<think>\n", true);
        check("assistant\n<think>", true);
        check("assistant\n", false);
        check("assistant\n<think>\n\n</think>\n\n", false);
        check("answer in <answer> and </answer> after <think>, please\nassistant\n", false);
        check("in <think> </think>\nassistant: <think>", true);
    }

    #[test]
    fn texts_are_shortened_and_escaped() {
        assert_eq!(shown("a\u{1b}[31m\n\"é", 5), r#""a\u{1b}[31m\n\"é""#);
        let long: String = ('a'..='z').cycle().take(1000).collect();
        assert_eq!(shown(&long, 2), format!("\"ab\" … {:?}", &long[1000 - SHOWN..]));
        assert_eq!(shown(&long, 0), format!("… {:?}", &long[1000 - SHOWN..]));
    }
}
