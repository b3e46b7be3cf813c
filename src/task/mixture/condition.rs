//! Which rows are used: the values that a field may have.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::field;
use crate::task::row::Row;

/// What a field must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a value, a list of values, or { from = …, to = … }")]
pub enum Condition {
    /// A number from one bound to the other, both included.
    Range(Range),
    /// One of these.
    OneOf(Vec<Scalar>),
    /// This.
    Is(Scalar),
}

/// Bounds of a number. At least one is there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<f64>,
}

/// A value that a configuration can name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
}

impl Condition {
    /// # Errors
    /// A list without values or a range without bounds: no row, or every row, would fit.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::OneOf(values) if values.is_empty() => Err("the list is empty, so no row would be used".into()),
            Self::Range(Range { from: None, to: None }) => Err("expected from, to or both".into()),
            Self::Range(Range { from: Some(from), to: Some(to) }) if from > to => {
                Err(format!("from = {from} is above to = {to}, so no row would be used"))
            }
            _ => Ok(()),
        }
    }

    /// A null fits nothing.
    fn fits(&self, value: &Value) -> Result<bool, String> {
        if value.is_null() {
            return Ok(false);
        }
        match self {
            Self::Is(one) => Ok(one.equals(value)),
            Self::OneOf(values) => Ok(values.iter().any(|it| it.equals(value))),
            Self::Range(Range { from, to }) => {
                let number = number(value).ok_or_else(|| format!("expected a number, got {value}"))?;
                Ok(from.is_none_or(|from| number >= from) && to.is_none_or(|to| number <= to))
            }
        }
    }
}

impl Scalar {
    /// A number equals the text of the same number: some files write numbers as text.
    fn equals(&self, value: &Value) -> bool {
        match self {
            Self::Bool(it) => value == it,
            Self::Number(it) => number(value) == Some(*it),
            Self::Text(it) => value.as_str() == Some(it),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// A number, or text that is one.
pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|it| it.is_finite())
}

/// The first field that does not fit its condition, with its value, such as `year is 1990`. `None` if the row fits all.
///
/// # Errors
/// A field that the row does not have, or that is not a number where one is needed.
pub fn mismatch(conditions: &BTreeMap<String, Condition>, row: &Row) -> Result<Option<String>, String> {
    for (name, condition) in conditions {
        let value = field::needed_or_null(row, name)?;
        if !condition.fits(&value).map_err(|problem| format!("field {name:?}: {problem}"))? {
            return Ok(Some(format!("{name} is {value}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::row::RewardModel;
    use serde_json::json;

    fn fits(conditions: &str, extra_info: Value) -> Result<bool, String> {
        let conditions: BTreeMap<String, Condition> = toml::from_str(conditions).unwrap();
        let (data_source, reward_model) = ("d".into(), RewardModel::rule(""));
        let row = Row { data_source, prompt: Vec::new(), ability: String::new(), reward_model, extra_info };
        mismatch(&conditions, &row).map(|mismatch| mismatch.is_none())
    }

    #[test]
    fn values_lists_and_ranges() {
        for (conditions, extra_info, expected) in [
            ("config = 'depth-2'", json!({"config": "depth-2"}), true),
            ("config = 'depth-2'", json!({"config": "depth-3"}), false),
            ("config = ['depth-2', 'depth-3']", json!({"config": "depth-3"}), true),
            ("level = 3", json!({"level": 3}), true),
            ("level = 3", json!({"level": "3"}), true),
            ("level = '3'", json!({"level": 3}), false),
            ("easy = true", json!({"easy": true}), true),
            ("easy = true", json!({"easy": "true"}), false),
            ("level = 3", json!({"level": null}), false),
            ("level = { from = 3 }", json!({"level": null}), false),
            ("Year = { from = 1983, to = 1993 }", json!({"Year": 1993}), true),
            ("Year = { from = 1983, to = 1993 }", json!({"Year": 1994}), false),
            ("Year = { to = 1993 }", json!({"Year": "1900"}), true),
            ("data_source = 'd'\nlevel = 1", json!({"level": 1}), true),
            ("data_source = 'e'\nlevel = 1", json!({"level": 1}), false),
            ("", json!({}), true),
        ] {
            assert_eq!(fits(conditions, extra_info), Ok(expected), "{conditions}");
        }
        assert!(fits("level = 1", json!({"other": 1})).unwrap_err().contains("\"level\""));
        assert!(fits("level = { from = 1 }", json!({"level": "easy"})).unwrap_err().contains("number"));
    }

    #[test]
    fn conditions_that_cannot_work_are_refused() {
        let problem =
            |text: &str| toml::from_str::<BTreeMap<String, Condition>>(text).unwrap()["a"].check().unwrap_err();
        assert!(problem("a = []").contains("empty"));
        assert!(problem("a = {}").contains("from"));
        assert!(problem("a = { from = 2, to = 1 }").contains("above"));
        assert!(toml::from_str::<BTreeMap<String, Condition>>("a = { form = 2 }").is_err());
    }
}
