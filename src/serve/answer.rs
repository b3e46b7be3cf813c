//! What an answer says of a completion, whichever of the two forms it has.

use axum::http::StatusCode;
use engine::native::DrawnToken;
use engine::{Completion, Finish};
use futures_util::future::try_join_all;
use serde_json::{Map, Value, json};

use super::Server;
use super::asked::Asked;
use super::error::Refused;
use super::metrics::add;
use super::text::GrowingText;

/// The form of an answer: plain text, or a message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Chat,
}

impl Form {
    /// OpenAI's name of the whole answer, and of a piece of it.
    pub fn object(self, is_piece: bool) -> &'static str {
        match (self, is_piece) {
            (Self::Text, _) => "text_completion",
            (Self::Chat, false) => "chat.completion",
            (Self::Chat, true) => "chat.completion.chunk",
        }
    }

    fn id(self) -> String {
        let prefix = if self == Self::Text { "cmpl" } else { "chatcmpl" };
        format!("{prefix}-{:032x}", rand::random::<u128>())
    }

    /// The head that all pieces of an answer share.
    pub fn head(self, asked: &Asked, is_piece: bool) -> Map<String, Value> {
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let head = [
            ("id", json!(self.id())),
            ("object", json!(self.object(is_piece))),
            ("created", json!(created)),
            ("model", json!(asked.model)),
        ];
        head.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

/// Samples everything and says it at once.
///
/// # Errors
/// The engine's.
pub async fn whole(server: &Server, asked: &Asked, form: Form) -> Result<Value, Refused> {
    let engine = &server.serving.engine;
    let groups = asked.requests.iter().map(|it| engine.generate_with(it.clone(), asked.policy.as_ref(), None));
    let groups = try_join_all(groups).await?;
    let mut choices = Vec::new();
    let mut generated = 0;
    for (request, group) in asked.requests.iter().zip(&groups) {
        for completion in group {
            generated += completion.tokens.len();
            let mut choice = choice(server, asked, form, choices.len(), completion);
            if asked.shown.token_ids && form == Form::Text {
                choice.insert("prompt_token_ids".into(), json!(*request.prompt));
            }
            choices.push(Value::Object(choice));
        }
    }
    add(&server.metrics.generated_tokens, generated as u64);
    let mut answer = form.head(asked, false);
    answer.insert("choices".into(), Value::Array(choices));
    answer.insert("usage".into(), usage(asked.prompt_tokens(), generated));
    if let (true, Form::Chat, Some(request)) = (asked.shown.token_ids, form, asked.requests.first()) {
        answer.insert("prompt_token_ids".into(), json!(*request.prompt));
    }
    Ok(Value::Object(answer))
}

pub fn usage(prompt: usize, generated: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated})
}

fn choice(server: &Server, asked: &Asked, form: Form, index: usize, completion: &Completion) -> Map<String, Value> {
    let tokens = (0..completion.tokens.len()).map(|at| DrawnToken {
        index,
        token: completion.tokens[at],
        log_prob: completion.log_probs[at],
        full_log_prob: completion.full_log_probs[at],
    });
    let text = match asked.shown.text {
        true => text_of(server, asked, completion),
        false => String::new(),
    };
    let mut choice = Map::new();
    choice.insert("index".into(), json!(index));
    match form {
        Form::Text => choice.insert("text".into(), json!(text)),
        Form::Chat => choice.insert("message".into(), json!({"role": "assistant", "content": text})),
    };
    insert_tokens(&mut choice, server, asked, form, &tokens.collect::<Vec<_>>());
    insert_end(&mut choice, server, asked, completion);
    choice
}

fn text_of(server: &Server, asked: &Asked, completion: &Completion) -> String {
    let mut text = growing_text(server, asked);
    spoken(asked, completion).iter().for_each(|token| text.push(*token));
    text.finish()
}

/// The text of a completion that has no token yet.
pub fn growing_text<'a>(server: &'a Server, asked: &'a Asked) -> GrowingText<'a> {
    let cut = if asked.stop.included { &[][..] } else { &asked.stop.strings[..] };
    GrowingText::new(&server.serving.tokenizer, asked.shown.skips_special, cut)
}

/// The tokens without the stop token at their end.
fn spoken<'c>(asked: &Asked, completion: &'c Completion) -> &'c [u32] {
    match completion.tokens.split_last() {
        Some((last, rest)) if is_stop(asked, *last) => rest,
        _ => &completion.tokens,
    }
}

pub fn is_stop(asked: &Asked, token: u32) -> bool {
    asked.requests.first().is_some_and(|request| request.sampling.stop_tokens.contains(&token))
}

/// Ids and log-probabilities, those that were asked for.
pub fn insert_tokens(
    choice: &mut Map<String, Value>,
    server: &Server,
    asked: &Asked,
    form: Form,
    tokens: &[DrawnToken],
) {
    let log_probs = match asked.shown.log_probs {
        true => log_probs(server, asked, form, tokens),
        false => Value::Null,
    };
    choice.insert("logprobs".into(), log_probs);
    if asked.shown.full_log_probs {
        let full: Vec<f32> = tokens.iter().map(|it| it.full_log_prob).collect();
        choice.insert("full_token_logprobs".into(), json!(full));
    }
    if asked.shown.token_ids {
        choice.insert("token_ids".into(), json!(tokens.iter().map(|it| it.token).collect::<Vec<_>>()));
    }
}

fn log_probs(server: &Server, asked: &Asked, form: Form, tokens: &[DrawnToken]) -> Value {
    let name = |it: &DrawnToken| match asked.shown.text {
        true => server.serving.tokenizer.decode(&[it.token], false),
        // As vLLM's return_tokens_as_token_ids.
        false => format!("token_id:{}", it.token),
    };
    match form {
        Form::Text => {
            let names: Vec<String> = tokens.iter().map(name).collect();
            let offsets = names.iter().scan(0, |end, name| {
                let start = *end;
                *end += name.chars().count();
                Some(start)
            });
            let offsets: Vec<usize> = offsets.collect();
            let log_probs: Vec<f32> = tokens.iter().map(|it| it.log_prob).collect();
            json!({"tokens": names, "token_logprobs": log_probs, "top_logprobs": null, "text_offset": offsets})
        }
        Form::Chat => {
            let one = |it: &DrawnToken| {
                let token = name(it);
                json!({"logprob": it.log_prob, "bytes": token.as_bytes(), "token": token, "top_logprobs": []})
            };
            json!({"content": tokens.iter().map(one).collect::<Vec<_>>()})
        }
    }
}

/// Why the completion ended: the id or the string that the request named, or nothing for the model's own stop tokens.
pub fn insert_end(choice: &mut Map<String, Value>, server: &Server, asked: &Asked, completion: &Completion) {
    let finish = match completion.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    choice.insert("finish_reason".into(), json!(finish));
    let last = completion.tokens.last().copied().unwrap_or_default();
    let reason = match completion.finish {
        Finish::Length => Value::Null,
        Finish::Stop if asked.stop.ids.contains(&last) => json!(last),
        Finish::Stop if is_stop(asked, last) => Value::Null,
        Finish::Stop => {
            let text = server.serving.tokenizer.decode(&completion.tokens, false);
            json!(GrowingText::stop_string(&text, &asked.stop.strings))
        }
    };
    choice.insert("stop_reason".into(), reason);
}

/// Counts how a request ended.
pub fn count(server: &Server, ended: &Result<impl Sized, Refused>) {
    let metrics = &server.metrics;
    match ended {
        Ok(_) => {}
        Err(refused) if refused.status < StatusCode::INTERNAL_SERVER_ERROR => add(&metrics.refused, 1),
        Err(_) => add(&metrics.failed, 1),
    }
}
