//! One row of a file as a conversation, in the forms that are common in the field.
//!
//! | keys | what is learned |
//! |---|---|
//! | `messages`: `[{role, content}, …]` | every turn of the assistant |
//! | `prompt`, `completion`: each text, or a list of messages | every turn of the assistant in the completion |
//! | `conversations`: `[{from, value}, …]` (ShareGPT), or messages | every turn of the assistant |
//!
//! A text is a message: a prompt that of a user, a completion that of the assistant. A `system` text becomes the first message.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::task::Message;
use crate::task::row::is_empty;

/// Messages to learn from.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// So many messages come before those that are learned from.
    pub context: usize,
}

/// Keys that other programs read and that change what a model is shown.
const OF_OTHERS: [&str; 6] =
    ["tools", "documents", "images", "chat_template", "chat_template_kwargs", "assistant_masks"];

const ACCEPTED: &str = r#"expected {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, or {"prompt": "Hi", "completion": "Hello"} (each a text or a list of messages), or {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}"#;

impl Conversation {
    /// Reads the fields of a row. Fields that have no meaning here are ignored, such as `id`.
    ///
    /// # Errors
    /// What was found, and what would be right.
    pub fn read(mut fields: Map<String, Value>) -> Result<Self, String> {
        fields.retain(|_, value| !value.is_null());
        if let Some(key) = OF_OTHERS.iter().find(|key| fields.get(**key).is_some_and(|value| !is_empty(value))) {
            return Err(format!("{key} would change what the model is shown, and is not supported; remove it"));
        }
        let mut take = |key: &str| fields.shift_remove(key);
        let system =
            take("system").filter(|it| !is_empty(it)).map(|it| messages("system", "system", it)).transpose()?;
        let given = ["messages", "prompt", "completion", "conversations"].map(&mut take);
        let conversation = match given {
            [Some(all), None, None, None] => Self::all(listed("messages", all)?),
            [None, None, None, Some(turns)] => Self::all(share_gpt(turns)?),
            [None, Some(prompt), Some(completion), None] => {
                let (prompt, completion) =
                    (messages("prompt", "user", prompt)?, messages("completion", "assistant", completion)?);
                Self { context: prompt.len(), messages: [prompt, completion].concat() }
            }
            [messages, prompt, completion, conversations] => {
                let named = [
                    ("messages", messages),
                    ("prompt", prompt),
                    ("completion", completion),
                    ("conversations", conversations),
                ];
                let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
                return Err(format!("the row has {}; {ACCEPTED}", shown(named.chain(fields))));
            }
        };
        conversation.after(system.unwrap_or_default())?.checked()
    }

    /// A conversation of which every turn of the assistant is learned.
    fn all(messages: Vec<Message>) -> Self {
        Self { messages, context: 0 }
    }

    fn after(self, system: Vec<Message>) -> Result<Self, String> {
        match (system.is_empty(), self.messages.first()) {
            (false, Some(first)) if first.role == "system" => {
                Err("the row has system, and its first message is a system message too; remove one".into())
            }
            _ => Ok(Self { context: self.context + system.len(), messages: [system, self.messages].concat() }),
        }
    }

    fn checked(self) -> Result<Self, String> {
        match self.turns().count() {
            0 => Err(format!("the row has no turn of the assistant to learn from; {ACCEPTED}")),
            _ => Ok(self),
        }
    }

    /// The places of the messages that are learned.
    pub fn turns(&self) -> impl Iterator<Item = usize> {
        (self.context..self.messages.len()).filter(|&turn| self.messages[turn].role == "assistant")
    }
}

/// A list of messages, or a text as the message of `role`.
fn messages(key: &str, role: &str, value: Value) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => Ok(vec![Message::new(role, text)]),
        list => listed(key, list),
    }
}

fn listed(key: &str, value: Value) -> Result<Vec<Message>, String> {
    let is_list = value.is_array();
    typed(key, value).map_err(|problem| if is_list { problem } else { format!("{problem}; {ACCEPTED}") })
}

/// An error names the place in the row, such as `messages[0].content`.
fn typed<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { key.to_owned() } else { format!("{key}{path}") };
        format!("{place}: {}", error.inner())
    })
}

/// A turn as ShareGPT writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    from: String,
    value: String,
}

fn share_gpt(mut value: Value) -> Result<Vec<Message>, String> {
    let has_from = |turn: &Value| turn.get("from").is_some();
    if !value.as_array().is_some_and(|turns| turns.iter().any(has_from)) {
        return listed("conversations", value);
    }
    let turns = value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    turns.for_each(|turn| turn.retain(|_, value| !value.is_null()));
    let turns: Vec<Turn> = typed("conversations", value)?;
    let message = |(index, Turn { from, value })| Ok(Message::new(role_of(index, &from)?, value));
    turns.into_iter().enumerate().map(message).collect()
}

fn role_of(index: usize, from: &str) -> Result<&'static str, String> {
    match from {
        "system" => Ok("system"),
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" | "model" => Ok("assistant"),
        _ => Err(format!("conversations[{index}].from is {from:?}; expected system, human or gpt")),
    }
}

/// The keys and their types.
fn shown(fields: impl Iterator<Item = (String, Value)>) -> String {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let all = fields.map(|(key, value)| format!("{key} ({})", kind(&value))).collect::<Vec<_>>();
    if all.is_empty() { "no keys".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Conversation, String> {
        let Value::Object(fields) = value else { panic!("an object") };
        Conversation::read(fields)
    }

    /// The roles and texts, and which are learned.
    fn check(value: Value, messages: &[(&str, &str)], turns: &[usize]) {
        let found = read(value.clone()).unwrap_or_else(|problem| panic!("{value}: {problem}"));
        let shown: Vec<_> = found.messages.iter().map(|it| (it.role.as_str(), it.content.as_str())).collect();
        assert_eq!((shown.as_slice(), found.turns().collect::<Vec<_>>().as_slice()), (messages, turns), "{value}");
    }

    fn check_refused(value: Value, words: &[&str]) {
        let problem = read(value.clone()).expect_err(&value.to_string());
        for word in words {
            assert!(problem.contains(word), "{value}: {word} is not in: {problem}");
        }
    }

    const PAIR: [(&str, &str); 2] = [("user", "Hi"), ("assistant", "Hello")];

    #[test]
    fn every_form_becomes_a_conversation() {
        let (user, assistant) =
            (json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Hello"}));
        check(json!({"messages": [user, assistant]}), &PAIR, &[1]);
        check(
            json!({"messages": [user, assistant], "prompt": null, "id": 7, "source": "web", "tools": []}),
            &PAIR,
            &[1],
        );
        for prompt in [json!("Hi"), json!([user])] {
            for completion in [json!("Hello"), json!([assistant])] {
                check(json!({"prompt": prompt, "completion": completion}), &PAIR, &[1]);
            }
        }
        let turns = json!([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]);
        check(json!({"conversations": turns, "id": "a"}), &PAIR, &[1]);
        check(json!({"conversations": [user, assistant]}), &PAIR, &[1]);
        check(json!({"conversations": [{"from": "gpt", "value": "Hello", "text": null}]}), &PAIR[1..], &[0]);
        let with_system = [("system", "Be kind."), PAIR[0], PAIR[1]];
        check(json!({"system": "Be kind.", "conversations": turns}), &with_system, &[2]);
        check(json!({"system": "Be kind.", "prompt": "Hi", "completion": "Hello"}), &with_system, &[2]);
        check(json!({"system": "", "messages": [user, assistant]}), &PAIR, &[1]);
    }

    #[test]
    fn turns_of_a_prompt_are_not_learned() {
        let (user, assistant) =
            (json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "content": "Hello"}));
        let all = [PAIR[0], PAIR[1], PAIR[0], PAIR[1]];
        check(json!({"messages": [user, assistant, user, assistant]}), &all, &[1, 3]);
        check(json!({"prompt": [user, assistant, user], "completion": "Hello"}), &all, &[3]);
        check(json!({"prompt": [user], "completion": [assistant, user, assistant]}), &all, &[1, 3]);
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_is_accepted() {
        let accepted = [r#"{"messages": [{"role": "user""#, r#""completion": "Hello"}"#, r#""from": "human""#];
        let check_form = |value: Value, found: &str| {
            check_refused(value.clone(), &[found]);
            check_refused(value, &accepted);
        };
        check_form(json!({"question": "?", "answer": 4}), "has question (a text), answer (a number)");
        check_form(json!({"text": "Hi"}), "text (a text)");
        check_form(json!({}), "no keys");
        check_form(json!({"prompt": "Hi"}), "has prompt (a text)");
        check_form(json!({"prompt": "Hi", "completion": null}), "has prompt (a text)");
        check_form(json!({"prompt": "Hi", "chosen": [], "rejected": []}), "prompt (a text), chosen (a list), rejected");
        check_form(json!({"messages": [], "prompt": "a", "completion": "b"}), "messages (a list), prompt (a text)");
        check_form(json!({"messages": "Hi"}), "messages: invalid type: string");
        check_form(json!({"prompt": 3, "completion": "b"}), "prompt: invalid type: integer");
        check_form(json!({"messages": [{"role": "user", "content": "Hi"}]}), "no turn of the assistant");
        check_form(json!({"messages": []}), "no turn of the assistant");
        let message = |value: Value| json!({"messages": [{"role": "user", "content": "Hi"}, value]});
        check_refused(message(json!({"role": "assistant"})), &["messages[1]", "content"]);
        check_refused(message(json!({"role": "assistant", "content": null})), &["messages[1].content", "null"]);
        check_refused(message(json!({"role": "assistant", "content": [{"type": "text"}]})), &["messages[1].content"]);
        check_refused(message(json!({"role": "assistant", "content": "a", "weight": 0})), &["messages[1]", "weight"]);
        check_refused(json!({"conversations": [{"from": "tool", "value": "4"}]}), &["conversations[0].from", "tool"]);
        check_refused(json!({"conversations": [{"from": "gpt", "value": 4}]}), &["conversations[0].value"]);
        let system = json!([{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]);
        check_refused(json!({"system": "c", "messages": system}), &["system message too"]);
        check_refused(json!({"tools": [{"name": "f"}], "messages": []}), &["tools", "not supported"]);
        check_refused(json!({"chat_template_kwargs": {"enable_thinking": false}}), &["chat_template_kwargs"]);
    }
}
