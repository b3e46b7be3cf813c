//! Answers that must not reach training, and failures by their kind.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::remote::{Failure, FailureKind, Server};

async fn failure(say: Say, settings: RemoteSettings) -> Failure {
    let fake = Fake::start(with(ours(), "POST /v1/completions", say)).await;
    connect(&fake, &settings).generate("p-1", &request()).await.unwrap_err()
}

#[track_caller]
fn check(failure: &Failure, kind: FailureKind, part: &str) {
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.problem.contains(part), "{failure} has no {part}");
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_broken() {
    let changes: Vec<(&str, Value, &str)> = vec![
        ("/choices/0/index", json!(0), "indices [0, 0]"),
        ("/choices/0/index", json!(2), "indices [0, 2]"),
        ("/choices", json!([]), "got 0"),
        ("/choices/0/token_ids", json!([]), "0 tokens"),
        ("/choices/0/token_ids", json!([1, 2, 3, 4, 5]), "5 tokens, expected 1 to 4"),
        ("/choices/0/token_ids", json!([1, 2, 3, 10]), "token 10 is not in the vocabulary"),
        ("/choices/0/token_ids", json!([1, 2, 3, -1]), "unreadable"),
        ("/choices/0/token_ids", json!([1, 2, 3, 4_294_967_297_u64]), "unreadable"),
        ("/choices/0/token_ids", json!([1, 9, 3, 4]), "after its stop token at position 1"),
        ("/choices/0/token_ids", json!(null), "no token_ids"),
        ("/choices/0/token_ids", json!([1, 2, 3]), "after 3 of 4 tokens with the reason length"),
        ("/choices/0/finish_reason", json!("stop"), "nothing stops it there"),
        ("/choices/1/finish_reason", json!("abort"), "reason abort"),
        ("/choices/1/finish_reason", json!("length"), "reason length"),
        ("/choices/1/finish_reason", json!(null), "reason none"),
        ("/choices/0/prompt_token_ids", json!([3, 4, 6]), "another prompt"),
        ("/choices/0/logprobs", json!(null), "no logprobs"),
        ("/choices/0/logprobs/token_logprobs", json!([-1.0, -1.0, -1.0]), "3 log-probabilities for 4 tokens"),
        ("/choices/0/logprobs/token_logprobs/2", json!(null), "position 2 is null"),
        ("/choices/0/logprobs/token_logprobs/2", json!(0.01), "position 2 is 0.01"),
        ("/choices/0/full_token_logprobs", json!(null), "no full_token_logprobs"),
        ("/choices/0/full_token_logprobs", json!([-1.0]), "1 log-probabilities for 4 tokens"),
        ("/choices/0/full_token_logprobs/3", json!(0.5), "position 3 is 0.5"),
        ("/choices/1/finish_reason", json!({"a": 1}), "unreadable"),
    ];
    for (place, value, part) in changes {
        let mut answer = group(true);
        *answer.pointer_mut(place).unwrap() = value;
        check(&failure(Say::json(200, answer), settings()).await, FailureKind::Broken, part);
    }
}

#[tokio::test]
async fn a_body_that_is_no_answer_is_broken() {
    let good = group(true).to_string();
    let deep = format!("{{\"choices\": {}", "[".repeat(30_000));
    for body in [
        good.replace("-0.25", "NaN"),
        good.replace("-0.25", "-1e999"),
        good[..good.len() - 1].into(),
        deep.replace("choices", "other"),
        deep,
        String::new(),
    ] {
        check(&failure(Say::text(200, &body), settings()).await, FailureKind::Broken, "unreadable answer");
    }
    // 64 KiB, 2 completions of 4 tokens of 256 bytes and of 3 prompt tokens of 16, and one byte more.
    let limit = 65_536 + 2 * (4 * 256 + 3 * 16);
    let padded = |bytes: usize| Say::text(200, &format!("{good}{}", " ".repeat(bytes - good.len())));
    let fits = Fake::start(with(ours(), "POST /v1/completions", padded(limit))).await;
    assert!(connect(&fits, &settings()).generate("p-1", &request()).await.is_ok());
    let part = format!("longer than the {limit} bytes");
    check(&failure(padded(limit + 1), settings()).await, FailureKind::Broken, &part);
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let (start, short) = (Instant::now(), Duration::from_millis(300));
    let found = failure(Say::Drip, RemoteSettings { request_timeout: short, ..settings() }).await;
    check(&found, FailureKind::TimedOut, "no answer within 300ms");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_unreachable() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"choices\"".to_vec();
    for bytes in [cut, Vec::new()] {
        check(&failure(Say::Bytes(bytes), settings()).await, FailureKind::Unreachable, "");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut gone = Fake::start(Vec::new()).await;
    gone.url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    drop(listener);
    check(&connect(&gone, &settings()).health().await.unwrap_err(), FailureKind::Unreachable, "refused");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Fake::start(ours()).await;
    let head = format!("HTTP/1.1 307 X\r\nlocation: {}v1/completions\r\ncontent-length: 0\r\n\r\n", other.url);
    check(&failure(Say::Bytes(head.into_bytes()), settings()).await, FailureKind::Broken, "307");
    assert!(other.take("POST /v1/completions").is_empty());
}

#[tokio::test]
async fn a_status_says_the_kind() {
    let kinds = [
        (400, FailureKind::Refused),
        (401, FailureKind::Unfit),
        (404, FailureKind::NoSuchPolicy),
        (408, FailureKind::TimedOut),
        (422, FailureKind::Refused),
        (429, FailureKind::Busy),
        (500, FailureKind::Broken),
        (503, FailureKind::Busy),
        (504, FailureKind::TimedOut),
    ];
    for (status, kind) in kinds {
        let say = Say::json(status, json!({"error": {"message": "because"}}));
        check(&failure(say, settings()).await, kind, "because");
    }
    // What SGLang says of an adapter that it unloaded, and of one that it does not know.
    for words in ["LoRA adapters are not loaded: {'p-1'}", "Got LoRA adapter that has never been loaded: p-1"] {
        let say = Say::json(400, json!({"error": {"message": words}}));
        let fake = Fake::start(with(sglang(), "POST /generate", say)).await;
        let found = connect(&fake, &settings()).generate("p-1", &request()).await.unwrap_err();
        check(&found, FailureKind::NoSuchPolicy, words);
    }
}

#[tokio::test]
async fn a_token_is_never_shown() {
    let text = format!("no \u{1b}[31m{TOKEN}\r\nand {}", "x".repeat(1000));
    for say in [Say::json(400, json!({"error": {"message": text}})), Say::text(500, &text)] {
        let found = failure(say, settings()).await;
        assert!(!found.to_string().contains(TOKEN) && found.problem.contains('…'), "{found}");
        assert!(found.problem.chars().count() <= 300 && !found.problem.chars().any(char::is_control), "{found}");
    }
    let fake = Fake::start(ours()).await;
    let settings = settings();
    let debug = format!("{:?} {:?} {settings:?}", HttpServers::new(&settings).unwrap(), connect(&fake, &settings));
    assert!(!debug.contains(TOKEN), "{debug}");
    let broken = RemoteSettings { token: Some(Token::new("s3cret\n-token")), ..settings };
    let error = HttpServers::new(&broken).unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}
