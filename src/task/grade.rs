//! The reward of a completion.

/// The two parts of a completion's reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grade {
    /// For the format of the completion.
    pub format_score: f32,
    /// For the answer.
    pub answer_score: f32,
}

impl Grade {
    /// The reward: the sum of both parts.
    pub fn score(&self) -> f32 {
        self.format_score + self.answer_score
    }

    /// Whether the answer is right: only a right answer has a positive score.
    pub fn is_right(&self) -> bool {
        self.answer_score > 0.0
    }
}
