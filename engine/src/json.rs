//! JSON and text files as other programs write them: with or without a byte-order mark, and no key twice.

use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a text file, without the byte-order mark that some editors write at its start.
///
/// # Errors
/// If it cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    Ok(without_bom(&text).map(str::to_owned).unwrap_or(text))
}

/// The text after a byte-order mark, if it begins with one.
fn without_bom(text: &str) -> Option<&str> {
    text.strip_prefix('\u{feff}')
}

/// Reads the text of a JSON object.
///
/// # Errors
/// Where it is broken; a key that an object has twice, because readers differ in which of the two counts.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    let value: Unique = serde_json::from_str(without_bom(text).unwrap_or(text)).map_err(|e| e.to_string())?;
    match value.0 {
        Value::Object(keys) => Ok(keys),
        other => Err(format!("expected a JSON object {{…}}, found {}", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value whose objects have each key once.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, _>()? {
            if all.contains_key(&key) {
                return Err(de::Error::custom(format!("the key `{key}` is there twice; keep one of them")));
            }
            all.insert(key, value);
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_the_text_whatever_is_before_it() {
        let text = r#"{"a": [1, -2, 0.5, 1e-6, "x", null, true], "b": {"a": {}}}"#;
        let expected = json!({"a": [1, -2, 0.5, 1e-6, "x", null, true], "b": {"a": {}}});
        assert_eq!(Value::from(parse_object(text).unwrap()), expected);
        assert_eq!(Value::from(parse_object(&format!("\u{feff}{text}")).unwrap()), expected);
    }

    #[test]
    fn broken_text_and_keys_twice_are_refused() {
        let check = |text: &str, part: &str| {
            let problem = parse_object(text).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        check("{\"a\": 1,\n\"a\": 1}", "the key `a` is there twice; keep one of them at line 2");
        check(r#"{"b": {"a": 1, "a": 2}}"#, "`a`");
        check("[1]", "found a list");
        check("{\"a\": ", "EOF");
        check(r#"{"a": NaN}"#, "line 1");
    }

    #[test]
    fn a_text_file_may_begin_with_a_byte_order_mark() {
        let path = std::env::temp_dir().join(format!("engine-json-{}", std::process::id()));
        for text in ["\u{feff}{}", "{}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_text(&path).unwrap(), "{}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
