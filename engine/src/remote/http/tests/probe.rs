//! What a probe finds, and which servers it refuses with which advice.

use serde_json::json;

use super::*;
use crate::EngineError;
use crate::remote::{Capabilities, FailureKind, Server};

type Routes = Vec<(&'static str, Say)>;

#[tokio::test]
async fn each_program_is_found() {
    for (routes, name, keeps_seeds) in
        [(ours(), "dump-rl 0.1.0", true), (vllm(), "vLLM 0.11.0", false), (sglang(), "SGLang 0.5.4", false)]
    {
        let fake = Fake::start(routes).await;
        let found = connect(&fake, &settings()).probe().await.unwrap();
        assert_eq!(found, Capabilities { name: name.into(), keeps_seeds });
    }
}

/// The probe refuses, and says all of this.
async fn refuses(routes: Routes, change: impl FnOnce(&mut RemoteSettings), parts: &[&str]) {
    let fake = Fake::start(routes).await;
    let mut settings = settings();
    change(&mut settings);
    let failure = connect(&fake, &settings).probe().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unfit, "{failure}");
    assert!(parts.iter().all(|part| failure.problem.contains(part)), "{failure} lacks one of {parts:?}");
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let models = |data| Say::json(200, json!({"data": data}));
    let other = vec![("GET /v1/models", models(json!([{"id": "m", "owned_by": "mistral.rs"}])))];
    refuses(other, |_| {}, &["\"mistral.rs\"", "neither takes nor gives token ids"]).await;
    refuses(Vec::new(), |_| {}, &["neither vLLM nor SGLang"]).await;
    let no_routes = with(vllm(), "POST /v1/load_lora_adapter", Say::json(404, json!({"detail": "Not Found"})));
    refuses(no_routes, |_| {}, &["--enable-lora", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"]).await;
    let disabled = with(sglang(), "GET /get_server_info", Say::json(200, json!({"enable_lora": false})));
    refuses(disabled, |_| {}, &["--enable-lora"]).await;
    let mut old = trial(-3.5);
    old["choices"][0]["token_ids"] = json!(null);
    refuses(with(vllm(), "trial", Say::json(200, old)), |_| {}, &["return_token_ids", "0.10.2"]).await;
    for status in [401, 403] {
        let closed = with(ours(), "GET /v1/models", Say::text(status, "{}"));
        refuses(closed, |_| {}, &["engine.remote.token_env", "engine.remote.token_file"]).await;
    }
}

#[tokio::test]
async fn log_probabilities_before_temperature_are_refused_where_there_is_one() {
    let warm = |settings: &mut RemoteSettings| settings.model.temperature = 0.7;
    refuses(vllm(), warm, &["--logprobs-mode processed_logprobs"]).await;
    refuses(sglang(), warm, &["temperature 1"]).await;
    let fake = Fake::start(with(vllm(), "trial", Say::json(200, trial(-0.0005)))).await;
    let mut settings = settings();
    warm(&mut settings);
    connect(&fake, &settings).probe().await.unwrap();
    let sent = fake.take("POST /v1/completions").remove(0).json();
    assert_eq!((&sent["model"], &sent["prompt"]), (&json!("base"), &json!([1])));
    assert_eq!((&sent["allowed_token_ids"], &sent["temperature"]), (&json!([1]), &json!(2.0)));
    assert_eq!((&sent["max_tokens"], &sent["logprobs"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused() {
    let long = |settings: &mut RemoteSettings| settings.model.context = 17;
    let truncates = |settings: &mut RemoteSettings| settings.model.truncates = true;
    for routes in [ours, vllm, sglang] {
        refuses(routes(), long, &["context", "16", "17"]).await;
    }
    for routes in [vllm, sglang] {
        refuses(routes(), truncates, &["top_k", "top_p", "min_p"]).await;
        refuses(routes(), |settings| settings.adapters = None, &["engine.remote.adapters"]).await;
    }
    refuses(ours(), |settings| settings.model.vocab_size = 11, &["10", "11"]).await;
    let fake = Fake::start(ours()).await;
    let mut other = settings();
    (other.adapters, other.model.truncates) = (None, true);
    connect(&fake, &other).probe().await.unwrap();
}

#[tokio::test]
async fn the_model_is_the_only_one_or_the_named_one() {
    let two = json!({"data": [{"id": "a", "owned_by": "vllm", "max_model_len": 16}, {"id": "b", "max_model_len": 16}]});
    let routes = || with(vllm(), "GET /v1/models", Say::json(200, two.clone()));
    refuses(routes(), |_| {}, &["a, b", "engine.endpoints", "model"]).await;
    let fake = Fake::start(routes()).await;
    let servers = HttpServers::new(&settings()).unwrap();
    let named = |name: &str| {
        let model = Some(name.to_string());
        servers.connect(&EndpointSettings { url: fake.url.clone(), model, max_sequences: 8 }).unwrap()
    };
    named("b").probe().await.unwrap();
    assert_eq!(fake.take("POST /v1/completions").remove(0).json()["model"], "b");
    let failure = named("c").probe().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unfit);
    assert!(failure.problem.contains("no c") && failure.problem.contains("a, b"), "{failure}");
}

#[tokio::test]
async fn a_server_that_starts_is_busy_and_one_that_is_up_is_healthy() {
    let busy = Fake::start(with(ours(), "GET /v1/models", Say::text(503, "loading"))).await;
    assert_eq!(connect(&busy, &settings()).probe().await.unwrap_err().kind, FailureKind::Busy);
    let up = Fake::start(with(ours(), "GET /health", Say::text(200, ""))).await;
    connect(&up, &settings()).health().await.unwrap();
    assert!(connect(&busy, &settings()).health().await.is_err());
}

#[test]
fn an_address_that_is_none_is_refused_without_its_password() {
    let servers = HttpServers::new(&settings()).unwrap();
    for (url, part) in
        [("http://u:s3cret@h:1", "token_env"), ("ftp://h", "http://"), ("http://h/?a=1", "`?`"), ("http://h/#a", "`#`")]
    {
        let endpoint = EndpointSettings { url: url.parse().unwrap(), model: None, max_sequences: 8 };
        let error = servers.connect(&endpoint).unwrap_err();
        assert!(matches!(error, EngineError::Endpoint { .. }));
        assert!(error.to_string().contains(part) && !error.to_string().contains("s3cret"), "{error}");
    }
    let broken = RemoteSettings { ca: Some(b"-----BEGIN CERTIFICATE-----\nx".to_vec()), ..settings() };
    assert!(HttpServers::new(&broken).unwrap_err().to_string().contains("certificates"));
}
