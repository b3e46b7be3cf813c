//! Bodies and answers of generation.

use serde_json::{Value, json};

use super::*;
use crate::remote::{Answer, FailureKind, Server};
use crate::{Finish, StopStrings};

/// The answers in [`group`] and [`sglang`], in order.
fn answers(second: f32, full: [&[f32]; 2]) -> Vec<Answer> {
    let answer = |tokens: &[u32], log_probs: &[f32], full: &[f32], finish| Answer {
        tokens: tokens.to_vec(),
        log_probs: log_probs.to_vec(),
        full_log_probs: full.to_vec(),
        finish,
    };
    vec![
        answer(&[7, 9], &[-0.5, second], full[0], Finish::Stop),
        answer(&[1, 2, 3, 4], &[-0.5, -1.0, -0.25, -2.0], full[1], Finish::Length),
    ]
}

async fn sent(routes: Vec<(&'static str, Say)>, route: &str, request: &Request) -> (Value, Vec<Answer>) {
    let fake = Fake::start(routes).await;
    let answers = connect(&fake, &settings()).generate("p-1", request).await.unwrap();
    let seen = fake.take(route);
    assert_eq!(seen.last().unwrap().head.matches(&format!("authorization: bearer {TOKEN}")).count(), 1);
    (seen.last().unwrap().json(), answers)
}

#[tokio::test]
async fn our_server_gets_the_seed_and_gives_both_log_probabilities() {
    let (body, found) = sent(ours(), "POST /v1/completions", &request()).await;
    let expected = json!({
        "model": "p-1", "prompt": [3, 4, 5], "n": 2, "max_tokens": 4, "temperature": 0.5, "top_p": 1.0, "top_k": -1,
        "min_p": 0.0, "stop_token_ids": [9], "logprobs": 0, "return_token_ids": true, "detokenize": false,
        "ignore_eos": true, "seed": 18_446_744_073_709_551_614_u64, "full_token_logprobs": true,
    });
    assert_eq!(body, expected);
    assert_eq!(found, answers(0.0, [&[-0.625, -0.1], &[-0.75, -1.5, -0.5, -3.0]]));
}

#[tokio::test]
async fn vllm_gets_no_seed_and_no_default_of_its_own() {
    let (body, found) = sent(vllm(), "POST /v1/completions", &request()).await;
    let expected = json!({
        "model": "p-1", "prompt": [3, 4, 5], "n": 2, "max_tokens": 4, "temperature": 0.5, "top_p": 1.0, "top_k": -1,
        "min_p": 0.0, "stop_token_ids": [9], "logprobs": 0, "return_token_ids": true, "detokenize": false,
        "ignore_eos": true, "skip_special_tokens": false, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    });
    assert_eq!(body, expected);
    assert_eq!(found, answers(0.0, [&[-0.5, 0.0], &[-0.5, -1.0, -0.25, -2.0]]));
}

#[tokio::test]
async fn sglang_gets_ids_and_its_log_probabilities_carry_the_ids() {
    let (body, found) = sent(sglang(), "POST /generate", &request()).await;
    let expected = json!({
        "input_ids": [3, 4, 5], "return_logprob": true, "lora_path": "p-1",
        "sampling_params": {
            "n": 2, "max_new_tokens": 4, "temperature": 0.5, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
            "stop_token_ids": [9], "skip_special_tokens": false, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        },
    });
    assert_eq!(body, expected);
    assert_eq!(found, answers(-1.5, [&[-0.5, -1.5], &[-0.5, -1.0, -0.25, -2.0]]));
}

#[tokio::test]
async fn stop_strings_truncation_and_the_context_reach_the_body() {
    let mut request = request();
    // The prompt of 13 tokens leaves 3 of the context of 16.
    request.prompt = [3; 13].into();
    request.group_size = 1;
    let sampling = &mut request.sampling;
    (sampling.top_k, sampling.top_p, sampling.min_p) = (5, 0.5, 0.25);
    sampling.stop_strings =
        StopStrings::new(vec!["h".into()], |ids| ids.iter().map(|id| char::from(b'a' + *id as u8)).collect());
    let choice = json!({
        "index": 0, "token_ids": [1, 7], "finish_reason": "stop", "full_token_logprobs": [-1.0, -1.0],
        "logprobs": {"token_logprobs": [-1.0, -0.5]},
    });
    let routes = with(ours(), "POST /v1/completions", Say::json(200, json!({"choices": [choice]})));
    let (body, found) = sent(routes, "POST /v1/completions", &request).await;
    assert_eq!((&body["max_tokens"], &body["top_k"]), (&3.into(), &5.into()));
    assert_eq!((&body["top_p"], &body["min_p"]), (&0.5.into(), &0.25.into()));
    assert_eq!((&body["stop"], &body["include_stop_str_in_output"]), (&json!(["h"]), &true.into()));
    assert!(body.get("detokenize").is_none());
    assert_eq!((&found[0].tokens[..], found[0].finish), (&[1, 7][..], Finish::Stop));
}

#[tokio::test]
async fn a_request_that_no_server_can_take_is_not_sent() {
    let fake = Fake::start(vllm()).await;
    let server = connect(&fake, &settings());
    let mut long = request();
    long.prompt = [3; 16].into();
    let mut truncated = request();
    truncated.sampling.top_p = 0.9;
    for (request, part) in [(long, "context of 16"), (truncated, "top_p")] {
        let failure = server.generate("p-1", &request).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(failure.problem.contains(part), "{failure}");
    }
    assert!(fake.take("POST /v1/completions").iter().all(|seen| seen.json().get("allowed_token_ids").is_some()));
}

#[tokio::test]
async fn a_router_gets_generation_and_nothing_else() {
    let fake = Fake::start(ours()).await;
    let router = Fake::start(vec![("POST /pool/v1/completions", Say::json(200, group(true)))]).await;
    let url = router.url.join("/pool/").unwrap();
    let server = connect(&fake, &RemoteSettings { router: Some(url), ..settings() });
    assert_eq!(server.generate("p-1", &request()).await.unwrap().len(), 2);
    assert_eq!(server.adapters().await.unwrap(), ["p-1"]);
    assert!(fake.take("POST /v1/completions").is_empty() && router.take("GET /v1/models").is_empty());
}
