//! A value of a row by its name.

use std::borrow::Cow;

use serde_json::Value;

use crate::task::row::Row;

/// The characters of a row's prompt, as a field of its own.
const PROMPT_CHARS: &str = "prompt_chars";

/// The value that `name` stands for. `None` if the row has no such value, or a null.
///
/// The names are `data_source`, `ability`, `ground_truth`, `prompt_chars` and every value of `extra_info`: with or without
/// `extra_info.` in front of it. Dots go into objects and lists: `extra_info.options.0`.
pub fn value<'a>(row: &'a Row, name: &str) -> Option<Cow<'a, Value>> {
    let text = |it: &str| Some(Cow::Owned(Value::from(it)));
    match name {
        "data_source" => text(&row.data_source).filter(|_| !row.data_source.is_empty()),
        "ground_truth" | "reward_model.ground_truth" if !row.reward_model.ground_truth.is_empty() => {
            text(&row.reward_model.ground_truth)
        }
        // A row that a mapping is about to give one.
        "ground_truth" if row.extra_info.get("ground_truth").is_none() => value(row, "reward_model.ground_truth"),
        PROMPT_CHARS => Some(Cow::Owned(Value::from(prompt_chars(row)))),
        "ability" if !row.ability.is_empty() => text(&row.ability),
        _ => {
            let inner = name.strip_prefix("extra_info.").or_else(|| name.strip_prefix("metadata."));
            let found = inner.and_then(|it| inside(&row.extra_info, it)).or_else(|| inside(&row.extra_info, name));
            found.map(Cow::Borrowed)
        }
    }
}

/// The same for a name that must be there, perhaps with a null.
///
/// # Errors
/// As [`needed`].
pub fn needed_or_null<'a>(row: &'a Row, name: &str) -> Result<Cow<'a, Value>, String> {
    let key = name.strip_prefix("extra_info.").unwrap_or(name);
    match row.extra_info.get(key).or_else(|| row.extra_info.get(name)) {
        Some(Value::Null) => Ok(Cow::Owned(Value::Null)),
        _ => needed(row, name),
    }
}

/// The same for a name that must be there.
///
/// # Errors
/// The name, and those that the row has.
pub fn needed<'a>(row: &'a Row, name: &str) -> Result<Cow<'a, Value>, String> {
    value(row, name).ok_or_else(|| {
        let own = row.extra_info.as_object().into_iter().flatten();
        let own = own.filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str());
        let known: Vec<&str> =
            ["data_source", "ability", "ground_truth", PROMPT_CHARS].into_iter().chain(own).collect();
        format!("the row has no field {name:?}; it has {}", known.join(", "))
    })
}

/// Characters of all messages of a row's prompt.
pub fn prompt_chars(row: &Row) -> usize {
    row.prompt.iter().map(|message| message.content.chars().count()).sum()
}

/// Follows the dots of `path`. A key that has dots itself is found too.
fn inside<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(path) {
        return Some(found).filter(|it| !it.is_null());
    }
    let step = |value: &'a Value, part: &str| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    };
    let found = path.split('.').try_fold(value, step)?;
    Some(found).filter(|it| !it.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::row::{Message, RewardModel};
    use serde_json::json;

    #[test]
    fn fields_are_found_by_name() {
        let row = Row {
            data_source: "d".into(),
            prompt: vec![Message::new("system", "é"), Message::new("user", "ab")],
            ability: String::new(),
            reward_model: RewardModel::rule("7"),
            extra_info: json!({"level": 3, "a": {"b": ["x", "y"]}, "c.d": true, "none": null, "extra_info": {"deep": 1}}),
        };
        for (name, expected) in [
            ("data_source", Some(json!("d"))),
            ("ground_truth", Some(json!("7"))),
            ("prompt_chars", Some(json!(3))),
            ("level", Some(json!(3))),
            ("extra_info.level", Some(json!(3))),
            ("metadata.level", Some(json!(3))),
            ("a.b.1", Some(json!("y"))),
            ("c.d", Some(json!(true))),
            ("extra_info.deep", Some(json!(1))),
            ("none", None),
            ("ability", None),
            ("a.b.2", None),
            ("a.b.x", None),
            ("", None),
        ] {
            assert_eq!(value(&row, name).map(Cow::into_owned), expected, "{name}");
        }
        let error = needed(&row, "levle").unwrap_err();
        assert!(error.contains("\"levle\"") && error.contains("level") && !error.contains("none,"), "{error}");
    }
}
