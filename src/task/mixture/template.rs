//! Text with fields of a row in it: `{data_source}/{extra_info.level}`.
//!
//! `{{` and `}}` are braces. A filter after `|` changes how a value is written: `{options|letters}` writes a list as
//! lettered lines, `{label|letter}` the index 0 as `A`.

use serde_json::Value;

use super::field;
use crate::task::row::{Row, json_text};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, style: Style },
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Text as it is, a list one item per line, anything else as JSON.
    Plain,
    /// A list as the lines `(A) …`, `(B) …`.
    Letters,
    /// The whole number 0 as `A`, 1 as `B`, …
    Letter,
}

impl Template {
    /// # Errors
    /// A brace that is not closed or not opened, an empty field, or an unknown filter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
            } else if let (Some((inside, after)), "{") = (rest.split_once('}'), brace) {
                parts.extend((!plain.is_empty()).then(|| Part::Text(std::mem::take(&mut plain))));
                parts.push(Part::field(inside)?);
                rest = after;
            } else {
                return Err(format!(
                    "{text:?} has a single {brace:?}; a field is written {{name}}, a brace {brace}{brace}"
                ));
            }
        }
        plain.push_str(rest);
        parts.extend((!plain.is_empty()).then_some(Part::Text(plain)));
        Ok(Self { parts })
    }

    /// The name of a distribution. Here `data_source`, `ability` or a name with `extra_info.` in front may stand without
    /// braces.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_name(text: &str) -> Result<Self, String> {
        match text.starts_with("extra_info.") && !text.contains('{') || matches!(text, "data_source" | "ability") {
            true => Ok(Self { parts: vec![Part::field(text)?] }),
            false => Self::parse(text),
        }
    }

    /// The text, if it has no fields.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// # Errors
    /// A field that the row does not have, or a value that the filter cannot write.
    pub fn render(&self, row: &Row) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field { name, style } => {
                    let value = field::needed(row, name)?;
                    text.push_str(&style.write(&value).map_err(|problem| format!("{name}: {problem}"))?);
                }
            }
        }
        Ok(text)
    }
}

impl Part {
    fn field(inside: &str) -> Result<Self, String> {
        let (name, filter) = inside.split_once('|').unwrap_or((inside, ""));
        let style = match filter.trim() {
            "" => Style::Plain,
            "letters" => Style::Letters,
            "letter" => Style::Letter,
            other => return Err(format!("no filter is called {other:?}; known are letters and letter")),
        };
        match name.trim() {
            "" => Err("a field in a template has no name; expected {name}".into()),
            name => Ok(Self::Field { name: name.into(), style }),
        }
    }
}

impl Style {
    fn write(self, value: &Value) -> Result<String, String> {
        match (self, value) {
            (Self::Plain, Value::Array(items)) => {
                Ok(items.iter().map(json_text).collect::<Result<Vec<_>, _>>()?.join("\n"))
            }
            (Self::Plain, value) => json_text(value),
            (Self::Letters, Value::Array(items)) => {
                let line = |(index, item)| Ok(format!("({}) {}", letter(index)?, json_text(item)?));
                let lines: Result<Vec<_>, String> = items.iter().enumerate().map(line).collect();
                Ok(lines?.join("\n"))
            }
            (Self::Letters, other) => Err(format!("letters needs a list, got {other}")),
            (Self::Letter, value) => {
                let index = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
                let index = index.ok_or_else(|| format!("letter needs a whole number from 0, got {value}"))?;
                Ok(letter(index as usize)?.to_string())
            }
        }
    }
}

fn letter(index: usize) -> Result<char, String> {
    let letters = ('A'..='Z').nth(index);
    letters.ok_or_else(|| format!("there are 26 letters, for the indices 0 to 25; got {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::row::RewardModel;
    use serde_json::json;

    fn row() -> Row {
        Row {
            data_source: "logic".into(),
            prompt: Vec::new(),
            ability: String::new(),
            reward_model: RewardModel::rule("7"),
            extra_info: json!({"level": 3, "options": ["a dog", 5, true], "label": 2, "text": "1"}),
        }
    }

    #[test]
    fn fields_become_text() {
        for (template, expected) in [
            ("{data_source}/{extra_info.level}", "logic/3"),
            ("{ level }{level}", "33"),
            ("{{{level}}}", "{3}"),
            ("{{level}}", "{level}"),
            ("plain", "plain"),
            ("{options}", "a dog\n5\ntrue"),
            ("{options|letters}", "(A) a dog\n(B) 5\n(C) true"),
            ("{label|letter}, {text|letter}", "C, B"),
            ("", ""),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&row()).unwrap(), expected, "{template}");
        }
        assert_eq!(Template::parse("a}}").unwrap().constant(), Some("a}"));
        assert_eq!(Template::parse("{a}").unwrap().constant(), None);
    }

    #[test]
    fn a_field_alone_can_name_a_distribution() {
        let name = |text: &str| Template::parse_name(text).unwrap().render(&row()).unwrap();
        assert_eq!(["data_source", "extra_info.level", "level", "{level}"].map(name), ["logic", "3", "level", "3"]);
    }

    #[test]
    fn wrong_templates_and_rows_are_named() {
        for (template, word) in [("{a", "{{"), ("a}b", "}}"), ("{}", "no name"), ("{a|upper}", "upper")] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
        for (template, word) in
            [("{nothing}", "\"nothing\""), ("{level|letters}", "list"), ("{options|letter}", "whole number")]
        {
            let error = Template::parse(template).unwrap().render(&row()).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_template_or_an_error(text in r"[{}|a-cé. ]{0,20}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&row());
            }
        }
    }
}
