use std::sync::Arc;

use candle_core::Device;
use mistralrs::core::{CompletionChoice, CompletionResponse, Usage};

use super::super::slots::{Slot, Slots};
use super::*;
use crate::Sampling;
use crate::seed::mix_seed;

async fn capture(max_new_tokens: usize, slots: &Arc<Slots>) -> (Capture, mpsc::Sender<Response>, ResultReceiver) {
    let slot = slots.acquire().await.expect("a free slot");
    let bounds = Bounds { prompt_tokens: 2, max_new_tokens, sampling: Sampling::new(0.0, vec![2]) };
    captured(bounds, slot)
}

fn captured(bounds: Bounds, slot: Slot) -> (Capture, mpsc::Sender<Response>, ResultReceiver) {
    let (reply, caller) = oneshot::channel();
    let (capture, response) = Capture::new(bounds, 1, reply, Admission::Slot(slot));
    (capture, response, caller)
}

fn slots() -> Arc<Slots> {
    Slots::new(1, 1)
}

fn picked(capture: &Capture, logits: &[f32], context: &[u32]) -> u32 {
    let logits = Tensor::new(logits, &Device::Cpu).expect("a tensor");
    let returned: Vec<f32> = capture.apply(&logits, context).and_then(|t| t.to_vec1()).expect("logits");
    let largest = returned.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a pick").0;
    assert_eq!(largest, returned.len() - 1);
    largest as u32
}

#[tokio::test]
async fn a_token_asked_for_twice_is_drawn_once() {
    let (capture, _response, _caller) = capture(9, &slots()).await;
    assert_eq!(picked(&capture, &[0.0, 2.0, 1.0], &[5, 5]), 1);
    assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5]), 1, "asked again for the same position");
    assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, 1]), 0);
    assert_eq!(capture.drawn.lock().expect("unpoisoned").tokens, [1, 0]);
}

fn done(completion_tokens: usize) -> Response {
    let choice = CompletionChoice { finish_reason: "length".into(), index: 0, text: String::new(), logprobs: None };
    let usage = Usage {
        completion_tokens,
        prompt_tokens: 2,
        total_tokens: 2 + completion_tokens,
        avg_tok_per_sec: 0.0,
        avg_prompt_tok_per_sec: 0.0,
        avg_compl_tok_per_sec: 0.0,
        total_time_sec: 0.0,
        total_prompt_time_sec: 0.0,
        total_completion_time_sec: 0.0,
    };
    let (id, model, object) = (String::new(), String::new(), String::new());
    let (choices, system_fingerprint) = (vec![choice], String::new());
    Response::CompletionDone(CompletionResponse { id, choices, created: 0, model, system_fingerprint, object, usage })
}

/// Top-k removes the NaN logit and a token is drawn; the result is an error anyway.
#[tokio::test]
async fn a_nan_logit_is_an_error_even_if_truncation_removes_it() {
    for (logit, is_fine) in [(0.0, true), (f32::NAN, false)] {
        let slot = slots().acquire().await.expect("a free slot");
        let sampling = Sampling { top_k: 2, ..Sampling::new(1.0, vec![9]) };
        let bounds = Bounds { prompt_tokens: 2, max_new_tokens: 1, sampling };
        let (capture, response, caller) = captured(bounds, slot);
        picked(&capture, &[logit, 2.0, 1.0], &[5, 5]);
        response.send(done(1)).await.expect("the capture listens");
        drop(capture);
        let answer = caller.await.expect("an answer");
        assert_eq!(answer.is_ok(), is_fine, "{answer:?}");
        assert!(is_fine || answer.is_err_and(|error| error.to_string().contains("finite")));
    }
}

#[tokio::test]
async fn nothing_is_drawn_after_the_end() {
    for (max_new_tokens, first, token) in [(9, [0.0, 0.0, 1.0], 2), (1, [0.0, 1.0, 0.0], 1)] {
        let (capture, _response, _caller) = capture(max_new_tokens, &slots()).await;
        assert_eq!(picked(&capture, &first, &[5, 5]), token);
        assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, token]), token);
        assert_eq!(capture.drawn.lock().expect("unpoisoned").tokens, [token]);
    }
}

/// `cargo test --release -p engine --features mistralrs cost_of_a_token -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_token() {
    const VOCABULARY: usize = 152_064;
    const TOKENS: usize = 300;
    let normal = |i: usize| (0..6).map(|j| mix_seed(i as u64, j) as f32 / u64::MAX as f32).sum::<f32>() * 4.0;
    let logits: Vec<f32> = (0..VOCABULARY).map(normal).collect();
    let slot = slots().acquire().await.expect("a free slot");
    let bounds = Bounds { prompt_tokens: 0, max_new_tokens: TOKENS + 1, sampling: Sampling::new(1.0, vec![]) };
    let (capture, _response, _caller) = captured(bounds, slot);
    let context = vec![0; TOKENS];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for at in 0..TOKENS {
        let logits = Tensor::new(logits.as_slice(), &Device::Cpu).expect("a tensor");
        let since = std::time::Instant::now();
        let returned = capture.apply(&logits, &context[..at]).expect("logits");
        ours.push(since.elapsed());
        // What mistral.rs does with it.
        let since = std::time::Instant::now();
        let values: Vec<f32> = returned.to_vec1().expect("values");
        let best = values.iter().enumerate().max_by(|a, b| a.1.partial_cmp(b.1).unwrap_or(std::cmp::Ordering::Equal));
        let best = best.map(|(id, _)| id as u32);
        theirs.push(since.elapsed());
        assert_eq!(best, capture.drawn.lock().expect("unpoisoned").tokens.last().copied());
    }
    for times in [&mut ours, &mut theirs] {
        times.sort();
    }
    println!("a token of {VOCABULARY}: {:?} here, then {:?} in mistral.rs", ours[TOKENS / 2], theirs[TOKENS / 2]);
}

#[tokio::test]
async fn an_abandoned_sequence_stops() {
    let (capture, _response, caller) = capture(9, &slots()).await;
    assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5]), 0);
    drop(caller);
    assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, 0]), 2);
}

#[tokio::test]
async fn a_dropped_sequence_answers_and_frees_its_slot() {
    let slots = slots();
    let (capture, _response, caller) = capture(9, &slots).await;
    assert_eq!(slots.free(), 0);
    drop(capture);
    assert!(matches!(caller.await, Ok(Err(EngineError::Stopped))));
    assert_eq!(slots.free(), 1);
}
