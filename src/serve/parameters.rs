//! The body of a request: a JSON object whose keys are taken one by one. What is left over is known to change nothing, or
//! refused by name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::Refused;

/// Keys that change no completion.
const WITHOUT_EFFECT: [&str; 11] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "request_id",
    "priority",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "return_tokens_as_token_ids",
    "spaces_between_special_tokens",
];

/// Keys of other engines that are not done here, each with the value that asks for nothing.
const NEUTRAL: [(&str, f64); 6] = [
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("repetition_penalty", 1.0),
    ("length_penalty", 1.0),
    ("best_of", 1.0),
    ("min_tokens", 0.0),
];

/// See the module.
pub struct Parameters(Map<String, Value>);

impl Parameters {
    /// # Errors
    /// A body that is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Refused> {
        let wrong = |problem: String| Refused::parameter("body", problem);
        match serde_json::from_slice(body) {
            Ok(Value::Object(given)) => Ok(Self(given)),
            Ok(_) => Err(wrong("must be a JSON object".into())),
            Err(error) => Err(wrong(format!("is not JSON: {error}"))),
        }
    }

    /// Takes the value of a key; `None` if it is not there, or null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refused> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|e| Refused::parameter(name, e)),
        }
    }

    /// Takes a value that must be there.
    ///
    /// # Errors
    /// As [`Parameters::take`], or if it is not there.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Refused> {
        self.take(name)?.ok_or_else(|| Refused::parameter(name, "is missing"))
    }

    /// # Errors
    /// A key that was not taken and asks for something that is not done here.
    pub fn finish(self) -> Result<(), Refused> {
        match self.0.into_iter().find(|(name, value)| !asks_for_nothing(name, value)) {
            Some((name, _)) => Err(Refused::parameter(&name, "is not supported here; leave it out")),
            None => Ok(()),
        }
    }
}

fn asks_for_nothing(name: &str, value: &Value) -> bool {
    let neutral = NEUTRAL.iter().find(|(key, _)| *key == name).map(|(_, neutral)| *neutral);
    match value {
        _ if WITHOUT_EFFECT.contains(&name) => true,
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => neutral.is_some_and(|neutral| number.as_f64() == Some(neutral)),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_taken_and_the_rest_is_refused_by_name() {
        let check = |body: &str, refused: Option<&str>| {
            let found = Parameters::parse(body.as_bytes()).and_then(Parameters::finish).err();
            assert_eq!(found.and_then(|it| it.parameter), refused.map(String::from), "{body}");
        };
        check(
            r#"{"user": "me", "logit_bias": {}, "presence_penalty": 0, "best_of": 1, "echo": false, "suffix": null}"#,
            None,
        );
        check(r#"{"presence_penalty": 0.5}"#, Some("presence_penalty"));
        check(r#"{"logit_bias": {"5": 1}}"#, Some("logit_bias"));
        check(r#"{"echo": true}"#, Some("echo"));
        check(r#"{"best_of": 2}"#, Some("best_of"));
        check(r#"{"response_format": {"type": "json_object"}}"#, Some("response_format"));
        check("[]", Some("body"));
        check("{", Some("body"));
        check(&"[".repeat(100_000), Some("body"));
    }
}
