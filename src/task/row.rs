//! The rows to train on, in the schema that is common in the field.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message of a chat prompt. Other keys than these are refused, because chat templates may use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GivenMessage")]
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

/// A message as it is given.
#[derive(Deserialize)]
struct GivenMessage {
    role: String,
    content: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl TryFrom<GivenMessage> for Message {
    type Error = String;

    fn try_from(GivenMessage { role, content, others }: GivenMessage) -> Result<Self, String> {
        match others.iter().find(|(_, value)| !is_empty(value)) {
            Some((key, _)) => Err(format!("a message has the key {key:?}; only role and content are read")),
            None => Ok(Self { role, content }),
        }
    }
}

/// Whether a value stands for a key that is not there.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
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
    /// The name of the grader. Without it `extra_info.grader` or the data source chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grader: Option<String>,
}

impl RewardModel {
    /// Grading by a rule against `ground_truth`.
    pub fn rule(ground_truth: impl Into<String>) -> Self {
        Self { style: rule(), ground_truth: ground_truth.into(), grader: None }
    }
}

fn rule() -> String {
    "rule".to_owned()
}

/// Reads a JSON string unchanged, and any other JSON value as its JSON text.
pub(super) fn text<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    json_text(&Value::deserialize(input)?).map_err(serde::de::Error::custom)
}

/// A JSON string unchanged, and any other JSON value as its JSON text.
///
/// # Errors
/// A whole number beyond 64 bits: some of its digits are lost where it is read as a number.
pub(super) fn json_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => check_digits(other).map(|()| other.to_string()),
    }
}

fn check_digits(value: &Value) -> Result<(), String> {
    /// From here on not every whole number is a 64-bit float.
    const INEXACT: f64 = 9_007_199_254_740_992.0;
    let is_inexact = |it: f64| it.abs() >= INEXACT && it.fract() == 0.0;
    match value {
        Value::Number(number) if number.is_f64() && number.as_f64().is_some_and(is_inexact) => {
            Err(format!("the number {number} may have lost digits; write it as a text, in quotation marks"))
        }
        Value::Array(items) => items.iter().try_for_each(check_digits),
        Value::Object(fields) => fields.values().try_for_each(check_digits),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_whose_digits_are_lost_is_refused() {
        let read = |text: &str| json_text(&serde_json::from_str(text).unwrap());
        for kept in ["18446744073709551615", "-9223372036854775808", "0.1", "9007199254740991.0"] {
            assert_eq!(read(kept), Ok(kept.into()));
        }
        assert_eq!(read("\"123456789012345678901234567890\""), Ok("123456789012345678901234567890".into()));
        for lost in ["123456789012345678901234567890", "[{\"a\": 18446744073709551616}]", "9007199254740993.0"] {
            assert!(read(lost).unwrap_err().contains("may have lost digits"), "{lost}");
        }
        assert_eq!(json_text(&json!({"a": [1, 0.5]})), Ok(r#"{"a":[1,0.5]}"#.into()));
    }

    #[test]
    fn a_message_with_more_than_role_and_content_is_refused() {
        let read = |text: &str| serde_json::from_str::<Message>(text).map_err(|error| error.to_string());
        let message = Ok(Message::new("user", "Hi"));
        assert_eq!(read(r#"{"role": "user", "content": "Hi"}"#), message);
        assert_eq!(read(r#"{"content": "Hi", "name": null, "tool_calls": [], "role": "user"}"#), message);
        for key in [r#""tool_calls": [{"id": 1}]"#, r#""name": "Ann""#, r#""weight": 0"#, r#""train": false"#] {
            let problem = read(&format!(r#"{{"role": "user", "content": "Hi", {key}}}"#)).unwrap_err();
            let name = key.split(':').next().unwrap();
            assert!(problem.contains(name) && problem.contains("only role and content"), "{problem}");
        }
    }

    #[test]
    fn a_ground_truth_that_is_an_object_is_kept_as_its_json_text() {
        let model: RewardModel = serde_json::from_str(r#"{"ground_truth": {"b": 1, "a": [true]}}"#).unwrap();
        assert_eq!(model, RewardModel::rule(r#"{"b":1,"a":[true]}"#));
    }
}
