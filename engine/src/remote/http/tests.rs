//! A fake server on a socket: what is sent to it, and what is made of its answers.

#[cfg(target_os = "linux")]
mod cost;
mod fake;
mod generate;
mod hostile;
mod load;
mod probe;

use std::time::Duration;

use serde_json::{Value, json};

use self::fake::{Fake, Say};
use super::{HttpServer, HttpServers};
use crate::remote::{AdapterFolders, Connect, EndpointSettings, RemoteSettings, ServedModel, Token};
use crate::{Request, Sampling};

const TOKEN: &str = "s3cret-token";

/// A vocabulary of 10 tokens and a context of 16.
fn settings() -> RemoteSettings {
    RemoteSettings {
        run_id: "run".into(),
        endpoints: Vec::new(),
        endpoints_file: None,
        router: None,
        adapters: Some(AdapterFolders { here: "/nowhere".into(), at_server: "/mnt/adapters".into() }),
        token: Some(Token::new(TOKEN)),
        ca: None,
        max_sequences: 8,
        request_timeout: Duration::from_secs(5),
        control_timeout: Duration::from_secs(5),
        retries: 0,
        hedges: false,
        kept_policies: 2,
        model: ServedModel { vocab_size: 10, context: 16, temperature: 1.0, truncates: false },
    }
}

fn connect(fake: &Fake, settings: &RemoteSettings) -> HttpServer {
    let endpoint = EndpointSettings { url: fake.url.clone(), model: None, max_sequences: 8 };
    HttpServers::new(settings).unwrap().connect(&endpoint).unwrap()
}

/// Two completions of up to 4 tokens of the prompt 3 4 5, until token 9.
fn request() -> Request {
    let sampling = Sampling { max_new_tokens: 4, ..Sampling::new(0.5, vec![9]) };
    Request { prompt: [3, 4, 5].into(), group_size: 2, seed: u64::MAX - 1, sampling }
}

fn ours() -> Vec<(&'static str, Say)> {
    let version = json!({"version": "0.1.0", "vocab_size": 10, "keeps_seeds": true, "precision": "f32"});
    let models = json!({"object": "list", "data": [
        {"id": "base", "owned_by": "dump-rl", "parent": null, "max_model_len": 16, "dump_rl": version},
        {"id": "p-1", "owned_by": "dump-rl", "parent": "base", "dump_rl": {"adapter": "00"}},
    ]});
    vec![("GET /v1/models", Say::json(200, models)), ("POST /v1/completions", Say::json(200, group(true)))]
}

fn vllm() -> Vec<(&'static str, Say)> {
    let models = json!({"object": "list", "data": [
        {"id": "base", "owned_by": "vllm", "root": "base", "parent": null, "max_model_len": 16},
        {"id": "p-1", "owned_by": "vllm", "root": "/mnt/adapters/p-1", "parent": "base"},
    ]});
    vec![
        ("GET /v1/models", Say::json(200, models)),
        ("GET /version", Say::json(200, json!({"version": "0.11.0"}))),
        ("POST /v1/load_lora_adapter", Say::json(400, json!({"error": {"message": "Field required"}}))),
        ("trial", Say::json(200, trial(-3.5))),
        ("POST /v1/completions", Say::json(200, group(false))),
    ]
}

fn sglang() -> Vec<(&'static str, Say)> {
    let models = json!({"data": [{"id": "base", "owned_by": "sglang", "root": "base", "max_model_len": 16}]});
    let output = |ids: &[u32], log_probs: &[f32], kind: &str| {
        let pairs: Vec<Value> = ids.iter().zip(log_probs).map(|(id, log_prob)| json!([log_prob, id, null])).collect();
        let meta = json!({"finish_reason": {"type": kind}, "prompt_tokens": 3, "output_token_logprobs": pairs});
        json!({"text": "", "output_ids": ids, "meta_info": meta})
    };
    let outputs =
        json!([output(&[7, 9], &[-0.5, -1.5], "stop"), output(&[1, 2, 3, 4], &[-0.5, -1.0, -0.25, -2.0], "length")]);
    vec![
        ("GET /v1/models", Say::json(200, models)),
        ("GET /get_model_info", Say::json(200, json!({"model_path": "base"}))),
        ("GET /get_server_info", Say::json(200, json!({"version": "0.5.4", "enable_lora": true}))),
        ("POST /load_lora_adapter", Say::json(422, json!({"detail": "Field required"}))),
        ("POST /generate", Say::json(200, outputs)),
    ]
}

/// What answers the probe's one token, with this log-probability.
fn trial(log_prob: f32) -> Value {
    json!({"choices": [{
        "index": 0, "text": "", "token_ids": [1], "finish_reason": "length", "logprobs": {"token_logprobs": [log_prob]},
    }]})
}

/// A good answer to [`request`], out of order; ours has log-probabilities before truncation too.
fn group(full: bool) -> Value {
    let mut choices = json!([
        {
            "index": 1, "text": "", "token_ids": [1, 2, 3, 4], "prompt_token_ids": [3, 4, 5],
            "finish_reason": "length", "stop_reason": null,
            "logprobs": {"tokens": ["", "", "", ""], "token_logprobs": [-0.5, -1.0, -0.25, -2.0]},
        },
        {
            "index": 0, "text": "", "token_ids": [7, 9], "prompt_token_ids": [3, 4, 5],
            "finish_reason": "stop", "stop_reason": 9,
            "logprobs": {"tokens": ["", ""], "token_logprobs": [-0.5, 1e-7]},
        },
    ]);
    if full {
        choices[0]["full_token_logprobs"] = json!([-0.75, -1.5, -0.5, -3.0]);
        choices[1]["full_token_logprobs"] = json!([-0.625, -0.1]);
    }
    json!({"id": "x", "object": "text_completion", "choices": choices, "usage": {}})
}

/// The routes with another answer for one of them.
fn with(mut routes: Vec<(&'static str, Say)>, route: &'static str, say: Say) -> Vec<(&'static str, Say)> {
    routes.retain(|(name, _)| *name != route);
    routes.push((route, say));
    routes
}
