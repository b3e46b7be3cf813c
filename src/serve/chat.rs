//! `POST /v1/chat/completions`: a conversation is continued, through the model's own chat template.

use serde_json::Value;

use super::Server;
use super::asked::{Asked, UsualLength};
use super::error::Refused;
use super::parameters::Parameters;
use crate::task::Message;

/// # Errors
/// What is wrong with the body.
pub fn read(mut given: Parameters, server: &Server) -> Result<Asked, Refused> {
    let messages: Vec<Value> = given.need("messages")?;
    let messages = messages.into_iter().map(message).collect::<Result<Vec<_>, Refused>>()?;
    if messages.is_empty() {
        return Err(Refused::parameter("messages", "is empty"));
    }
    let prompt = server.serving.tokenizer.encode_prompt(&messages);
    let prompt = prompt.map_err(|error| Refused::parameter("messages", error.problem))?.ids;
    // What the template is told in any case.
    if given.take("add_generation_prompt")? == Some(false) {
        return Err(Refused::parameter("add_generation_prompt", "must be true: the answer follows the prompt"));
    }
    let log_probs: bool = given.take("logprobs")?.unwrap_or(false);
    if given.take::<usize>("top_logprobs")?.is_some_and(|top| top > 0) {
        return Err(Refused::parameter("top_logprobs", "must be 0: only the drawn token's is known"));
    }
    let mut asked = Asked::take(&mut given, server, vec![prompt], UsualLength::Context)?;
    asked.shown.log_probs = log_probs;
    given.finish()?;
    Ok(asked)
}

/// A message whose text may be given in parts.
fn message(mut message: Value) -> Result<Message, Refused> {
    let wrong = |problem: String| Refused::parameter("messages", problem);
    if let Some(Value::Array(parts)) = message.get("content") {
        let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => Ok(text.to_string()),
            _ => Err(wrong("a part of a message is no text; other kinds are not supported here".into())),
        };
        let text = parts.iter().map(text).collect::<Result<String, _>>()?;
        message["content"] = Value::String(text);
    }
    serde_json::from_value(message).map_err(|error| wrong(error.to_string()))
}
