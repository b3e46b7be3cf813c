//! The graders, one per task, and which of them grades a row.

use super::grade::Grade;
use super::kk;
use super::row::Row;

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
    use serde_json::Value;

    use super::*;
    use crate::task::row::{Message, RewardModel};

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
