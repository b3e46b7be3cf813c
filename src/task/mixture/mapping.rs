//! Prompt and ground truth of rows that have columns of their own.

use serde_json::Value;

use super::Template;
use crate::task::row::{Message, RewardModel, Row};

/// How a JSON object becomes a row. What is `None` comes from the row's schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The system message.
    pub system: Option<String>,
    /// The user message.
    pub prompt: Option<Template>,
    /// The ground truth.
    pub answer: Option<Template>,
    /// The `data_source` of rows that have none.
    pub data_source: Option<String>,
}

impl Mapping {
    /// Whether templates may name any column.
    pub fn has_templates(&self) -> bool {
        self.prompt.is_some() || self.answer.is_some()
    }

    /// Whether no schema is needed: prompt and answer are both made here.
    pub fn is_complete(&self) -> bool {
        self.prompt.is_some() && self.answer.is_some()
    }

    /// The row of an object without a known schema. All its fields become `extra_info`, where templates find them.
    ///
    /// # Errors
    /// A field that a template names and the object does not have.
    pub fn row(&self, fields: Value) -> Result<Row, String> {
        let text = |key: &str| fields[key].as_str().unwrap_or_default().to_owned();
        let own = text("data_source");
        let data_source = if own.is_empty() { self.data_source.clone().unwrap_or_default() } else { own };
        let (ability, prompt, reward_model) = (text("ability"), Vec::new(), RewardModel::rule(""));
        let row = Row { data_source, prompt, ability, reward_model, extra_info: fields };
        self.apply(row)
    }

    /// The row with this prompt and ground truth, where they are given.
    ///
    /// # Errors
    /// As [`Mapping::row`].
    pub fn apply(&self, mut row: Row) -> Result<Row, String> {
        let prompt = self.prompt.as_ref().map(|it| it.render(&row)).transpose()?;
        if let Some(answer) = &self.answer {
            row.reward_model.ground_truth = answer.render(&row)?;
        }
        if let Some(text) = prompt {
            row.prompt = vec![Message::new("user", text)];
        }
        if let Some(system) = &self.system {
            row.prompt.retain(|message| message.role != "system");
            row.prompt.insert(0, Message::new("system", system));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_become_a_row() {
        let template = |text: &str| Some(Template::parse(text).unwrap());
        let mapping = Mapping {
            system: Some("Think.".into()),
            prompt: template("{context}\n{options|letters}"),
            answer: template("{label|letter}"),
            data_source: Some("logiqa".into()),
        };
        let row = mapping.row(json!({"context": "Who?", "options": ["I", "you"], "label": 1})).unwrap();
        assert_eq!(row.prompt, [Message::new("system", "Think."), Message::new("user", "Who?\n(A) I\n(B) you")]);
        assert_eq!((row.reward_model.ground_truth.as_str(), row.data_source.as_str()), ("B", "logiqa"));
        assert_eq!(row.extra_info["label"], 1);
        assert!(mapping.row(json!({"context": "Who?"})).unwrap_err().contains("\"options\""));
    }

    #[test]
    fn templates_see_the_ground_truth_of_every_schema() {
        let template = |text: &str| Some(Template::parse(text).unwrap());
        let truth = |template, fields| {
            let mapping =
                Mapping { prompt: Some(Template::parse("?").unwrap()), answer: template, ..Mapping::default() };
            mapping.row(fields).map(|row| row.reward_model.ground_truth)
        };
        let verl = || json!({"reward_model": {"ground_truth": "7"}});
        assert_eq!(truth(template("{ground_truth}"), verl()), Ok("7".into()));
        assert_eq!(truth(template("{reward_model.ground_truth}"), verl()), Ok("7".into()));
        assert_eq!(truth(template("<{ground_truth}>"), json!({"ground_truth": 8})), Ok("<8>".into()));
        assert!(truth(template("{ground_truth}"), json!({"x": 1})).is_err());
    }

    #[test]
    fn a_system_message_replaces_the_one_that_is_there() {
        let mapping = Mapping { system: Some("new".into()), ..Mapping::default() };
        let prompt = vec![Message::new("system", "old"), Message::new("user", "?")];
        let (ability, extra_info) = (String::new(), Value::Null);
        let row = Row { data_source: "d".into(), prompt, ability, reward_model: RewardModel::rule("1"), extra_info };
        let row = mapping.apply(row).unwrap();
        assert_eq!(row.prompt, [Message::new("system", "new"), Message::new("user", "?")]);
        assert_eq!(row.reward_model.ground_truth, "1");
    }
}
