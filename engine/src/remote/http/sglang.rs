//! SGLang's `POST /generate`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Asked, Choice};
use super::completions::top_k;
use super::transport::{Reply, Transport};
use crate::remote::Failure;

/// What is sent. `ignore_eos` stays off, because SGLang then ignores `stop_token_ids` too; an end token that the request
/// does not name is found when the answer is checked.
pub fn body(policy: &str, asked: Asked) -> Value {
    let (request, sampling) = (asked.request, &asked.request.sampling);
    let mut params = json!({
        "n": request.group_size,
        "max_new_tokens": asked.most_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": top_k(sampling.top_k),
        "min_p": sampling.min_p,
        "stop_token_ids": &*sampling.stop_tokens,
        "skip_special_tokens": false,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    });
    if !sampling.stop_strings.is_empty() {
        params["stop"] = json!(sampling.stop_strings.strings());
        params["no_stop_trim"] = json!(true);
    }
    json!({
        "input_ids": &*request.prompt,
        "sampling_params": params,
        "return_logprob": true,
        "lora_path": policy,
    })
}

#[derive(Deserialize)]
pub struct Output {
    output_ids: Option<Vec<u32>>,
    meta_info: Meta,
}

#[derive(Deserialize)]
struct Meta {
    finish_reason: Option<Reason>,
    prompt_tokens: Option<usize>,
    /// Log-probability, id and text of each token.
    output_token_logprobs: Vec<(Option<f32>, u32, Option<String>)>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    kind: String,
}

/// The answer is a list, or without it if there is one completion.
pub fn outputs(transport: &Transport, reply: &Reply) -> Result<Vec<Output>, Failure> {
    match reply.bytes.trim_ascii_start().starts_with(b"[") {
        true => transport.parse(reply),
        false => Ok(vec![transport.parse(reply)?]),
    }
}

/// # Errors
/// Where the answer contradicts itself or the request.
pub fn choices(outputs: Vec<Output>, prompt: &[u32]) -> Result<Vec<Choice>, String> {
    outputs.into_iter().enumerate().map(|(index, output)| output.choice(index, prompt)).collect()
}

impl Output {
    fn choice(self, index: usize, prompt: &[u32]) -> Result<Choice, String> {
        let (log_probs, tokens): (_, Vec<u32>) =
            self.meta_info.output_token_logprobs.into_iter().map(|(log_prob, token, _)| (log_prob, token)).unzip();
        if self.output_ids.is_some_and(|ids| ids != tokens) {
            return Err(format!("completion {index}: output_ids are not the ids of output_token_logprobs"));
        }
        match self.meta_info.prompt_tokens {
            Some(found) if found != prompt.len() => {
                Err(format!("completion {index}: it answers a prompt of {found} tokens, not of {}", prompt.len()))
            }
            _ => Ok(Choice {
                index,
                tokens,
                log_probs,
                full_log_probs: None,
                prompt: None,
                reason: self.meta_info.finish_reason.map(|reason| reason.kind),
            }),
        }
    }
}
