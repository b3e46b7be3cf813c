//! JSON of a given shape: the ground truth is a JSON schema.
//!
//! A subset of JSON Schema is known: `type`, `properties`, `required`, `additionalProperties` (true or false), `items` and
//! `enum`. Another keyword is an error, so that no rule is ignored; notes such as `title` and `description` are allowed.
//! The published mode reads JSON in the tags alone. The lenient mode also reads it in a fenced block and behind other text.

use serde_json::{Map, Value};

use super::Judge;
use super::answer::{self, Mode};
use crate::task::grade::Verdict;

const FENCE: &str = "```";
/// Keywords that say nothing about the shape.
const NOTES: [&str; 7] = ["$schema", "$id", "title", "description", "default", "examples", "$comment"];

/// The schema with which an answer is compared.
#[derive(Clone, Debug)]
pub struct Expected {
    schema: Schema,
}

/// What a value must fulfil. An empty list and `None` ask for nothing.
#[derive(Clone, Debug, Default)]
struct Schema {
    types: Vec<Type>,
    properties: Vec<(String, Schema)>,
    required: Vec<String>,
    /// Whether an object may have keys that are not in `properties`.
    closed: bool,
    items: Option<Box<Schema>>,
    values: Option<Vec<Value>>,
}

#[derive(Clone, Copy, Debug)]
enum Type {
    Object,
    Array,
    String,
    Number,
    Integer,
    Boolean,
    Null,
}

impl Expected {
    /// # Errors
    /// A ground truth that is not a JSON object, or a keyword that is not known or has another form.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(ground_truth).map_err(|e| format!("the ground truth must be a JSON schema: {e}"))?;
        Schema::new(&value).map(|schema| Self { schema })
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let found = match mode {
            Mode::Published => match answer::published(completion) {
                None => return Verdict::Missing,
                Some(text) => serde_json::from_str(text).ok(),
            },
            Mode::Lenient => answer::whole(completion).and_then(json),
        };
        match (found, mode) {
            (Some(value), _) if self.schema.allows(&value) => Verdict::Right,
            (None, Mode::Lenient) => Verdict::Missing,
            _ => Verdict::Wrong,
        }
    }
}

/// The JSON of a text: all of it, the last fenced block, or what begins at the first bracket.
fn json(text: &str) -> Option<Value> {
    let fenced = || {
        let (before, _) = text.rsplit_once(FENCE)?;
        let (_, block) = before.rsplit_once(FENCE)?;
        let code = block.strip_prefix("json").or_else(|| block.strip_prefix("JSON")).unwrap_or(block);
        serde_json::from_str(code).ok()
    };
    let bracketed = || {
        let start = text.find(['{', '['])?;
        serde_json::Deserializer::from_str(&text[start..]).into_iter().next()?.ok()
    };
    serde_json::from_str(text).ok().or_else(fenced).or_else(bracketed)
}

impl Schema {
    fn new(value: &Value) -> Result<Self, String> {
        let Value::Object(fields) = value else { return Err(format!("a schema must be an object, got {value}")) };
        let mut schema = Self::default();
        for (key, value) in fields {
            schema.read(key, value)?;
        }
        Ok(schema)
    }

    fn read(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let wrong = |wanted: &str| Err(format!("the schema's {key} must be {wanted}, got {value}"));
        match (key, value) {
            ("type", Value::String(name)) => self.types = vec![Type::new(name)?],
            ("type", Value::Array(names)) if !names.is_empty() => {
                self.types =
                    names.iter().map(|it| Type::new(it.as_str().unwrap_or_default())).collect::<Result<_, _>>()?;
            }
            ("type", _) => return wrong("a type or a list of types"),
            ("properties", Value::Object(fields)) => {
                let property = |(key, value): (&String, _)| Ok((key.clone(), Self::new(value)?));
                self.properties = fields.iter().map(property).collect::<Result<_, String>>()?;
            }
            ("properties", _) => return wrong("an object of schemas"),
            ("required", Value::Array(keys)) if keys.iter().all(Value::is_string) => {
                self.required = keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            ("required", _) => return wrong("a list of keys"),
            ("additionalProperties", Value::Bool(allowed)) => self.closed = !allowed,
            ("additionalProperties", _) => return wrong("true or false"),
            ("items", items) => self.items = Some(Box::new(Self::new(items)?)),
            ("enum", Value::Array(values)) => self.values = Some(values.clone()),
            ("enum", _) => return wrong("a list of values"),
            _ if NOTES.contains(&key) => {}
            _ => {
                return Err(format!(
                    "the schema's keyword {key:?} is not known; known are: type, properties, required, \
                     additionalProperties, items, enum"
                ));
            }
        }
        Ok(())
    }

    fn allows(&self, value: &Value) -> bool {
        let parts = match value {
            Value::Object(fields) => self.allows_fields(fields),
            Value::Array(items) => self.items.as_ref().is_none_or(|schema| items.iter().all(|it| schema.allows(it))),
            _ => true,
        };
        parts
            && (self.types.is_empty() || self.types.iter().any(|it| it.includes(value)))
            && self.values.as_ref().is_none_or(|values| values.contains(value))
    }

    fn allows_fields(&self, fields: &Map<String, Value>) -> bool {
        self.required.iter().all(|key| fields.contains_key(key))
            && self.properties.iter().all(|(key, schema)| fields.get(key).is_none_or(|it| schema.allows(it)))
            && (!self.closed || fields.keys().all(|key| self.properties.iter().any(|(known, _)| known == key)))
    }
}

impl Type {
    fn new(name: &str) -> Result<Self, String> {
        Ok(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "null" => Self::Null,
            _ => {
                return Err(format!(
                    "the schema's type {name:?} is not known; known are: object, array, string, number, integer, boolean, null"
                ));
            }
        })
    }

    /// `1.0` is an integer, as in JSON Schema.
    fn includes(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Integer => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|it| it.fract() == 0.0),
            Self::Boolean => value.is_boolean(),
            Self::Null => value.is_null(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    const PERSON: &str = r#"{"type": "object", "description": "a person", "required": ["name", "age"], "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "role": {"enum": ["knight", "knave"]},
        "tags": {"type": "array", "items": {"type": ["string", "null"]}}}}"#;

    fn check(schema: &str, answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(schema).unwrap();
        let completion = format!("<think>{{}}</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
        assert_verdicts(&expected, answer, lenient, Missing);
    }

    #[test]
    fn values_of_the_shape_are_right() {
        let person = r#"{"name": "Zoey", "age": 3}"#;
        check(PERSON, person, Right, Right);
        check(PERSON, r#"{"name": "Zoey", "age": 3.0, "role": "knight", "tags": ["a", null]}"#, Right, Right);
        check(PERSON, r#"{"age": 3, "name": "", "other": [1, {}]}"#, Right, Right);
        check(PERSON, &format!("```json\n{person}\n```"), Right, Wrong);
        check(PERSON, &format!("```\n{person}\n```"), Right, Wrong);
        check(PERSON, &format!("Here: {person} Done."), Right, Wrong);
        check("{}", "1", Right, Right);
        check(r#"{"type": "number"}"#, "1.5", Right, Right);
        check(r#"{"type": "boolean"}"#, "true", Right, Right);
        check(r#"{"type": "null"}"#, "null", Right, Right);
        check(r#"{"type": "array"}"#, "[]", Right, Right);
        check(r#"{"enum": [1, "a", [2]]}"#, "[2]", Right, Right);
        check(r#"{"additionalProperties": false, "properties": {"a": {}}}"#, r#"{"a": 1}"#, Right, Right);
    }

    #[test]
    fn values_of_another_shape_are_wrong() {
        for answer in [
            "{}",
            "[]",
            r#"{"name": "Zoey"}"#,
            r#"{"name": 3, "age": 3}"#,
            r#"{"name": "Zoey", "age": 3.5}"#,
            r#"{"name": "Zoey", "age": "3"}"#,
            r#"{"name": "Zoey", "age": null}"#,
            r#"{"name": "Zoey", "age": 3, "role": "spy"}"#,
            r#"{"name": "Zoey", "age": 3, "tags": [1]}"#,
            r#"{"name": "Zoey", "age": 3, "tags": "a"}"#,
            r#"[{"name": "Zoey", "age": 3}]"#,
        ] {
            check(PERSON, answer, Wrong, Wrong);
        }
        check(r#"{"type": "string"}"#, "1", Wrong, Wrong);
        check(r#"{"enum": []}"#, "1", Wrong, Wrong);
        check(r#"{"additionalProperties": false}"#, r#"{"a": 1}"#, Wrong, Wrong);
        for answer in ["Zoey, 3", r#"{"name": "Zoey", "age": 3"#, "{name: 1}", &"[".repeat(10_000)] {
            check(PERSON, answer, Missing, Wrong);
        }
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "JSON schema"),
            ("[]", "object"),
            (r#"{"type": "text"}"#, "\"text\""),
            (r#"{"type": 1}"#, "a type"),
            (r#"{"type": []}"#, "a type"),
            (r#"{"minimum": 1}"#, "minimum"),
            (r#"{"required": "a"}"#, "a list of keys"),
            (r#"{"properties": {"a": {"pattern": "x"}}}"#, "pattern"),
            (r#"{"properties": []}"#, "object of schemas"),
            (r#"{"items": [{}]}"#, "object"),
            (r#"{"enum": 1}"#, "list of values"),
            (r#"{"additionalProperties": {}}"#, "true or false"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }
}
