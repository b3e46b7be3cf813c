//! `POST /v1/completions` as vLLM and `dump-rl serve` have it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Asked, Choice};
use crate::StopStrings;

/// Which server it is: ours takes a seed and no name that it does not know, vLLM must be told not to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Ours,
    Vllm,
}

/// What is sent, with every parameter explicit: a server's own defaults come from files that nobody checks.
pub fn body(dialect: Dialect, policy: &str, asked: Asked) -> Value {
    let (request, sampling) = (asked.request, &asked.request.sampling);
    let mut body = json!({
        "model": policy,
        "prompt": &*request.prompt,
        "n": request.group_size,
        "max_tokens": asked.most_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": top_k(sampling.top_k),
        "min_p": sampling.min_p,
        // A model's end token ends only what the request says it ends, and then it is one of `stop_token_ids`.
        "ignore_eos": true,
        "stop_token_ids": &*sampling.stop_tokens,
        "logprobs": 0,
        "return_token_ids": true,
    });
    add(&mut body, stops(&sampling.stop_strings));
    add(
        &mut body,
        match dialect {
            Dialect::Ours => json!({"seed": request.seed, "full_token_logprobs": true}),
            // No seed: it would be the same for all of the group.
            Dialect::Vllm => json!({
                "skip_special_tokens": false,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
            }),
        },
    );
    body
}

/// One token, which the server may not choose: shows what its answers hold and what its log-probabilities are.
pub fn trial(model: &str, token: u32) -> Value {
    json!({
        "model": model,
        "prompt": [token],
        "n": 1,
        "max_tokens": 1,
        "temperature": 2.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "allowed_token_ids": [token],
        "logprobs": 0,
        "return_token_ids": true,
        "ignore_eos": true,
    })
}

/// 0 is "all" to us, -1 to every server.
pub fn top_k(k: usize) -> i64 {
    if k == 0 { -1 } else { i64::try_from(k).unwrap_or(-1) }
}

/// Text is needed only to find stop strings in it, and must then not lose the string.
fn stops(stops: &StopStrings) -> Value {
    match stops.is_empty() {
        true => json!({"detokenize": false}),
        false => json!({"stop": stops.strings(), "include_stop_str_in_output": true}),
    }
}

/// Adds the entries of one object to another.
fn add(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

#[derive(Deserialize)]
pub struct Completions {
    choices: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    index: usize,
    token_ids: Option<Vec<u32>>,
    prompt_token_ids: Option<Vec<u32>>,
    logprobs: Option<LogProbs>,
    full_token_logprobs: Option<Vec<Option<f32>>>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct LogProbs {
    token_logprobs: Vec<Option<f32>>,
}

impl Completions {
    /// # Errors
    /// What the answer lacks.
    pub fn choices(self, dialect: Dialect) -> Result<Vec<Choice>, String> {
        self.choices.into_iter().map(|completion| completion.choice(dialect)).collect()
    }
}

impl Completion {
    fn choice(self, dialect: Dialect) -> Result<Choice, String> {
        let lacks = |what: &str| format!("completion {} has no {what}", self.index);
        if dialect == Dialect::Ours && self.full_token_logprobs.is_none() {
            return Err(lacks("full_token_logprobs"));
        }
        Ok(Choice {
            index: self.index,
            tokens: self.token_ids.ok_or_else(|| lacks("token_ids"))?,
            log_probs: self.logprobs.ok_or_else(|| lacks("logprobs"))?.token_logprobs,
            full_log_probs: self.full_token_logprobs,
            prompt: self.prompt_token_ids,
            reason: self.finish_reason,
        })
    }
}
