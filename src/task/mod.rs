//! Tasks: the rows to train on, and the graders that score their completions.
//!
//! - [`rows`] reads JSON Lines files in every accepted schema into [`Row`]s.
//! - [`kk`] is Knights and Knaves: a generator of puzzles, their prompt and their grader.
//!
//! Pure and synchronous: no async runtime, no tensors. The grader of every loaded row understands its ground truth.

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
    /// A message with this role and text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// One prompt and what its completions are graded against, in the schema that is common in the field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The name of the distribution that the row belongs to; it also chooses the grader.
    pub data_source: String,
    /// The conversation up to the assistant's turn.
    pub prompt: Vec<Message>,
    /// The ability that the row asks for, such as `logic`; only people read it.
    #[serde(default)]
    pub ability: String,
    /// What a completion is graded against.
    pub reward_model: RewardModel,
    /// Anything else about the row, such as `split` and `index`.
    #[serde(default)]
    pub extra_info: Value,
}

/// How a row is graded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardModel {
    /// `rule`: a program grades, not a model.
    #[serde(default = "rule")]
    pub style: String,
    /// What the grader needs, in a form that the grader defines. A value that is not a string is kept as its JSON text.
    #[serde(deserialize_with = "text")]
    pub ground_truth: String,
}

impl RewardModel {
    /// Grading by a rule against `ground_truth`.
    pub fn rule(ground_truth: impl Into<String>) -> Self {
        Self { style: rule(), ground_truth: ground_truth.into() }
    }
}

fn rule() -> String {
    "rule".to_owned()
}

/// Reads a JSON string unchanged, and any other JSON value as its JSON text.
fn text<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(input)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

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

/// The grader of a row, with the answer that it expects.
#[derive(Clone, Debug, PartialEq)]
pub enum Grader {
    /// Knights and Knaves: data sources whose name begins with `kk`.
    Kk(kk::grade::Expected),
}

impl Grader {
    /// The grader of `row`, chosen by its data source.
    ///
    /// # Errors
    /// An unknown data source, or a ground truth that the grader cannot read. The text is for the user who
    /// gave the row.
    pub fn for_row(row: &Row) -> Result<Self, String> {
        let source = &row.data_source;
        let ground_truth = &row.reward_model.ground_truth;
        if source.starts_with("kk") {
            return kk::grade::Expected::from_ground_truth(ground_truth).map(Self::Kk);
        }
        Err(format!("no grader is known for data_source {source:?}; known are: kk… (Knights and Knaves)"))
    }

    /// Scores the text of the assistant, without the prompt.
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
