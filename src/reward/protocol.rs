//! Requests and replies: one JSON object per completion. docs/data.md describes them.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::config::grader_spec::is_part_name;
use crate::task::{Grade, Message, Part, Row};

/// What a grader is told about a completion.
#[derive(Serialize)]
pub struct Request<'a> {
    pub id: u64,
    pub data_source: &'a str,
    pub prompt: &'a [Message],
    pub completion: &'a str,
    pub ground_truth: &'a str,
    pub extra_info: &'a Value,
}

impl<'a> Request<'a> {
    pub fn new(id: u64, row: &'a Row, completion: &'a str) -> Self {
        Self {
            id,
            data_source: &row.data_source,
            prompt: &row.prompt,
            completion,
            ground_truth: &row.reward_model.ground_truth,
            extra_info: &row.extra_info,
        }
    }
}

/// The greatest score.
const MOST: f64 = 1e6;

/// The keys of a reply.
const KEYS: [&str; 5] = ["id", "score", "right", "parts", "error"];

/// The id of a reply, and the grade or the reason why there is none.
pub type Reply = (u64, Result<Grade, String>);

/// Whether a line says that a program has started: `{"ready": true}`.
pub fn is_ready(line: &[u8]) -> bool {
    serde_json::from_slice::<Value>(line).is_ok_and(|it| it == serde_json::json!({"ready": true}))
}

/// Reads a line that a grader wrote.
///
/// # Errors
/// A line that is not a reply. The text quotes it.
pub fn parse_line(line: &[u8]) -> Result<Reply, String> {
    let text = String::from_utf8_lossy(line);
    // Python writes NaN and Infinity, which are not JSON. With null in their place the id can be read.
    let value = serde_json::from_str(&text).or_else(|error| {
        serde_json::from_str(&text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null"))
            .map_err(|_| error)
    });
    match value {
        Ok(value) => {
            parse(&value).map(|(id, grade)| (id, grade.map_err(|problem| format!("{problem} in {}", quote(&text)))))
        }
        Err(_) => Err(format!(
            "it wrote a line that is not a reply (other output belongs on standard error): {}",
            quote(&text)
        )),
    }
}

/// Reads a reply.
///
/// # Errors
/// A value that is not a reply.
pub fn parse(value: &Value) -> Result<Reply, String> {
    let id = value.get("id").and_then(Value::as_u64);
    let id = id.ok_or_else(|| format!("a reply without the id of its request: {}", quote(&value.to_string())))?;
    Ok((id, grade(value)))
}

fn grade(value: &Value) -> Result<Grade, String> {
    let unknown = value.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !KEYS.contains(&key.as_str()));
    if let Some(key) = unknown {
        return Err(format!("a reply has no key {key:?}; known are {}", KEYS.join(", ")));
    }
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        return Err(format!("it says: {}", shorten(error.as_str().unwrap_or(&error.to_string()))));
    }
    let score = number(value.get("score")).ok_or("`score` must be a number from -1000000 to 1000000")?;
    let right = match value.get("right") {
        None | Some(Value::Null) => score > 0.0,
        Some(Value::Bool(right)) => *right,
        Some(_) => return Err("`right` must be true or false".into()),
    };
    let parts = match value.get("parts") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(parts)) if parts.len() <= 64 => {
            let part = |(name, score): (&String, &Value)| {
                let score = number(Some(score)).filter(|_| is_part_name(name));
                let score = score.ok_or_else(|| {
                    format!("the part {:?} must be a name with a number from -1000000 to 1000000", shorten(name))
                })?;
                Ok(Part { name: Arc::from(name.as_str()), score })
            };
            parts.iter().map(part).collect::<Result<_, String>>()?
        }
        Some(_) => return Err("`parts` must be an object of at most 64 numbers".into()),
    };
    Ok(Grade { format_score: 0.0, answer_score: score, right, parts })
}

fn number(value: Option<&Value>) -> Option<f32> {
    value?.as_f64().filter(|x| x.abs() <= MOST).map(|x| x as f32)
}

/// The start of a text, for an error message.
pub fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, words: &str) {
        let error = match parse_line(line.as_bytes()) {
            Ok((_, grade)) => grade.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.contains(words), "{line}: {error}");
    }

    #[test]
    fn replies_are_read() {
        let (id, grade) = parse_line(br#"{"id": 7, "score": -0.5, "parts": {"a": 1, "b": 0.25}}"#).unwrap();
        let grade = grade.unwrap();
        assert_eq!((id, grade.score(), grade.right, grade.part("b")), (7, -0.5, false, Some(0.25)));
        let right = |line: &str| parse_line(line.as_bytes()).unwrap().1.unwrap().right;
        assert!(right(r#"{"id": 1, "score": 0.1}"#) && right(r#"{"id": 1, "score": -1, "right": true}"#));
        assert!(!right(r#"{"id": 1, "score": 0}"#) && !right(r#"{"id": 1, "score": 1, "right": false}"#));
    }

    #[test]
    fn wrong_replies_are_quoted() {
        check("hello", "\"hello\"");
        check("3", "without the id");
        check(r#"{"score": 1}"#, "without the id");
        for score in ["NaN", "Infinity", "-Infinity", "null", "\"1\"", "true", "1e300"] {
            let line = format!(r#"{{"id": 1, "score": {score}}}"#);
            assert_eq!(parse_line(line.as_bytes()).unwrap().0, 1, "the id of {line} is known");
            check(&line, "`score` must be a number from");
        }
        check(r#"{"id": 1}"#, "`score`");
        check(r#"{"id": 1, "score": 1, "right": 1}"#, "`right`");
        check(r#"{"id": 1, "score": 1, "rihgt": false}"#, "\"rihgt\"");
        check(r#"{"id": 1, "score": 1, "parts": {"a/b": 1}}"#, "a/b");
        check(r#"{"id": 1, "score": 1, "parts": {"a": "x"}}"#, "\"a\"");
        check(r#"{"id": 1, "error": "no key"}"#, "it says: no key");
        let long = "x".repeat(10_000);
        assert!(parse_line(long.as_bytes()).unwrap_err().len() < 300);
    }
}
