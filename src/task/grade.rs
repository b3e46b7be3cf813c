//! The reward of a completion: what a grader finds, and what that is worth.

use std::sync::Arc;

/// What a grader says about the answer of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// There is no answer, or the grader cannot read it.
    Missing,
}

/// What a grader says about a whole completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether reasoning and answer stand in their tags.
    pub right_format: bool,
    pub verdict: Verdict,
}

/// What each finding is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// For a right answer. It must be above 0.
    pub right: f32,
    /// For a wrong answer. It must not be above 0.
    pub wrong: f32,
    /// For a missing answer. It must not be above 0.
    pub missing: f32,
    pub format_right: f32,
    pub format_wrong: f32,
}

/// The scores of the DUMP paper.
impl Default for Scores {
    fn default() -> Self {
        Self { right: 2.0, wrong: -1.5, missing: -2.0, format_right: 1.0, format_wrong: -1.0 }
    }
}

impl Scores {
    /// What a judgement is worth.
    pub fn grade(&self, judgement: Judgement) -> Grade {
        Grade {
            format_score: if judgement.right_format { self.format_right } else { self.format_wrong },
            answer_score: match judgement.verdict {
                Verdict::Right => self.right,
                Verdict::Wrong => self.wrong,
                Verdict::Missing => self.missing,
            },
            right: judgement.verdict == Verdict::Right,
            parts: Vec::new(),
        }
    }
}

/// The reward of a completion, by what it is given for.
#[derive(Clone, Debug, PartialEq)]
pub struct Grade {
    /// For the format of the completion.
    pub format_score: f32,
    /// For everything else.
    pub answer_score: f32,
    /// Whether the answer is right.
    pub right: bool,
    /// The terms of a weighted sum, and what a grader of the user's names. Without weights.
    pub parts: Vec<Part>,
}

/// One score among several of the same completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: Arc<str>,
    pub score: f32,
}

impl Grade {
    /// The reward.
    pub fn score(&self) -> f32 {
        self.format_score + self.answer_score
    }

    /// Whether the answer is right. Of the graders that are built in, only a right answer has a positive score.
    pub fn is_right(&self) -> bool {
        self.right
    }

    /// The score of the part with this name.
    pub fn part(&self, name: &str) -> Option<f32> {
        self.parts.iter().find(|part| &*part.name == name).map(|part| part.score)
    }
}
