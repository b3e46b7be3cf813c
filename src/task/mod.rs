//! Tasks: the rows that are trained on, and the graders that score a completion of one.
//!
//! - [`rows`] reads JSON Lines files in every accepted schema into [`Row`]s.
//! - [`kk`] is Knights and Knaves: a generator of puzzles, their prompt and their grader.
//!
//! Pure and synchronous: no async runtime, no tensors. A row that was loaded has a ground truth its grader understands.

pub mod kk;
pub mod rows;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One message of a chat prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The message's text.
    pub content: String,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// One prompt and what its completions are graded against, in the field's schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name of the distribution that the row belongs to; it also chooses the grader.
    pub data_source: String,
    /// The conversation so far, ending before the assistant's turn.
    pub prompt: Vec<Message>,
    /// The kind of ability asked for, such as `logic`; for people only.
    #[serde(default)]
    pub ability: String,
    /// What a completion is graded against.
    pub reward_model: RewardModel,
    /// Anything else about the row: `split`, `index` and so on.
    #[serde(default)]
    pub extra_info: Value,
}

/// How a row is graded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardModel {
    /// `rule`: by a program, not by a model.
    #[serde(default = "rule")]
    pub style: String,
    /// What the grader needs; its form is the grader's own. A value that is not text is kept as its JSON text.
    #[serde(deserialize_with = "text")]
    pub ground_truth: String,
}

impl RewardModel {
    /// Graded by a rule against `ground_truth`.
    pub fn rule(ground_truth: impl Into<String>) -> Self {
        Self { style: rule(), ground_truth: ground_truth.into() }
    }
}

fn rule() -> String {
    "rule".to_owned()
}

/// Reads a JSON string as it is, and any other JSON value as its JSON text.
fn text<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(input)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

/// The two parts of a completion's reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grade {
    /// For the form of the completion.
    pub format_score: f32,
    /// For what it answers.
    pub answer_score: f32,
}

impl Grade {
    /// The reward: the sum of both parts.
    pub fn score(&self) -> f32 {
        self.format_score + self.answer_score
    }

    /// Whether the answer is right: only then is its part of the reward positive.
    pub fn is_right(&self) -> bool {
        self.answer_score > 0.0
    }
}

/// A row's grader with what it expects.
#[derive(Clone, Debug, PartialEq)]
pub enum Grader {
    /// Knights and Knaves: data sources that begin with `kk`.
    Kk(kk::grade::Expected),
}

impl Grader {
    /// The grader of `row`, chosen by its data source.
    ///
    /// # Errors
    /// An unknown data source or a ground truth that its grader cannot read, in words for the person who gave the row.
    pub fn for_row(row: &Row) -> Result<Self, String> {
        let source = &row.data_source;
        let ground_truth = &row.reward_model.ground_truth;
        if source.starts_with("kk") {
            return kk::grade::Expected::from_ground_truth(ground_truth).map(Self::Kk);
        }
        Err(format!("no grader is known for data_source {source:?}; known are: kk… (Knights and Knaves)"))
    }

    /// Scores the assistant's text alone, without the prompt.
    pub fn grade(&self, completion: &str) -> Grade {
        match self {
            Self::Kk(expected) => expected.grade(completion),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ground_truth_that_is_an_object_is_kept_as_its_json_text() {
        let model: RewardModel = serde_json::from_str(r#"{"ground_truth": {"b": 1, "a": [true]}}"#).unwrap();
        assert_eq!(model, RewardModel::rule(r#"{"b":1,"a":[true]}"#));
    }

    #[test]
    fn an_unknown_data_source_is_refused_with_the_known_ones() {
        let row = Row {
            data_source: "chess".into(),
            prompt: vec![Message::new("user", "?")],
            ability: String::new(),
            reward_model: RewardModel::rule("e4"),
            extra_info: Value::Null,
        };
        let problem = Grader::for_row(&row).unwrap_err();
        assert!(problem.contains("\"chess\"") && problem.contains("kk"), "{problem}");
    }
}
