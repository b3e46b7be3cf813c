//! Whether a run can still learn: what its steps show, for how many in a row, and when that is told. Pure.
//!
//! A *symptom* is that nothing can be learned; the other signs are its likely causes. A warning comes when a symptom has lasted, with
//! all signs that have lasted as long. Each is told once, until a step without any symptom.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// This many steps in a row are no accident.
pub const LASTING: u64 = 10;

/// What a step may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// A symptom: in every group all completions have the same reward.
    NoAdvantage,
    /// A symptom: no completion has the right format.
    NoFormat,
    AllTruncated,
    PromptOpensTag,
    SameCompletions,
    AllRight,
    NoneRight,
    OneScore,
}

impl Sign {
    pub fn is_symptom(self) -> bool {
        matches!(self, Self::NoAdvantage | Self::NoFormat)
    }

    /// As it is told. Causes come with what may help.
    pub fn text(self, max_new_tokens: usize) -> String {
        match self {
            Self::NoAdvantage => "in every group all completions have the same reward".into(),
            Self::NoFormat => "no completion has the right format".into(),
            Self::AllTruncated => {
                format!("every completion is cut off at engine.max_new_tokens = {max_new_tokens}: raise it")
            }
            Self::PromptOpensTag => {
                "the chat template opens a tag at the end of the prompt, and it is not graded: set grader.prefill = \"graded\"".into()
            }
            Self::SameCompletions => {
                "all completions of a group are the same text: raise engine.temperature, or look at engine.top_k".into()
            }
            Self::AllRight => "every answer is right: the model solves these rows, take harder ones".into(),
            Self::NoneRight => {
                "no answer is right: the rows are too hard for the model, or the grader does not find its answers".into()
            }
            Self::OneScore => {
                "different completions of different prompts all have one score: look at the grader and at the format that it asks for".into()
            }
        }
    }
}

/// See the module. A checkpoint keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// How many of the latest steps in a row showed a sign.
    lasted: BTreeMap<Sign, u64>,
    told: BTreeSet<Sign>,
}

impl Watch {
    /// Takes the signs of the next step. Returns those to tell; symptoms are first.
    pub fn step(&mut self, seen: &BTreeSet<Sign>) -> Vec<Sign> {
        self.lasted.retain(|sign, _| seen.contains(sign));
        seen.iter().for_each(|sign| *self.lasted.entry(*sign).or_default() += 1);
        if !seen.iter().any(|sign| sign.is_symptom()) {
            self.told.clear();
        }
        let lasting: Vec<Sign> = self.lasted.iter().filter(|it| *it.1 >= LASTING).map(|it| *it.0).collect();
        let is_new = lasting.iter().any(|sign| !self.told.contains(sign));
        if !is_new || !lasting.iter().any(|sign| sign.is_symptom()) {
            return Vec::new();
        }
        self.told.extend(&lasting);
        lasting
    }
}

#[cfg(test)]
mod tests {
    use Sign::*;

    use super::*;

    /// The steps, from 1, after which something is told, and what.
    fn told(steps: impl IntoIterator<Item = Vec<Sign>>) -> Vec<(usize, Vec<Sign>)> {
        let mut watch = Watch::default();
        let told = steps.into_iter().map(|seen| watch.step(&seen.into_iter().collect()));
        (1..).zip(told).filter(|(_, signs)| !signs.is_empty()).collect()
    }

    fn times(steps: usize, seen: &[Sign]) -> Vec<Vec<Sign>> {
        vec![seen.to_vec(); steps]
    }

    #[test]
    fn a_symptom_that_lasts_is_told_once_with_its_causes() {
        let cut = [NoAdvantage, NoFormat, AllTruncated, NoneRight];
        assert_eq!(told(times(50, &cut)), [(10, cut.to_vec())]);
        assert_eq!(told(times(9, &cut)), []);
        // A cause that does not last as long is not named.
        let steps = [times(5, &[NoAdvantage]), times(5, &[NoAdvantage, AllRight])].concat();
        assert_eq!(told(steps), [(10, vec![NoAdvantage])]);
    }

    #[test]
    fn causes_alone_are_no_reason_to_warn() {
        assert_eq!(told(times(50, &[AllTruncated, NoneRight, SameCompletions])), []);
    }

    #[test]
    fn a_good_step_begins_anew() {
        let bad = || times(12, &[NoAdvantage, AllRight]);
        let steps = [bad(), times(1, &[AllRight]), bad()].concat();
        assert_eq!(told(steps), [(10, vec![NoAdvantage, AllRight]), (23, vec![NoAdvantage, AllRight])]);
        let steps = [times(9, &[NoAdvantage]), times(1, &[]), times(9, &[NoAdvantage])].concat();
        assert_eq!(told(steps), []);
    }

    #[test]
    fn another_cause_is_told_as_well() {
        let steps = [times(15, &[NoFormat, AllTruncated]), times(15, &[NoFormat, NoneRight])].concat();
        assert_eq!(told(steps), [(10, vec![NoFormat, AllTruncated]), (25, vec![NoFormat, NoneRight])]);
    }
}
