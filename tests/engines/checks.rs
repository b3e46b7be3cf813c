//! The guarantees, one check each, for an engine of any kind.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use dump_rl::train::trainer::Trainer;
use engine::{Completion, Engine, EngineError, Finish, PolicyVersion, Request, StopStrings};

use super::{generate_together, next_adapter, request, samples};
use crate::fixtures::DEADLINE;

/// The largest difference in log-probability allowed between an engine and the trainer, in nats.
pub const TOLERANCE: f64 = 1e-4;

/// Several requests at once are answered with whole groups by `version`, in which not all completions are equal.
pub async fn check_groups<E: Engine>(engine: &Arc<E>, version: &PolicyVersion) -> Vec<(Request, Vec<Completion>)> {
    let answers = generate_together(engine, 0..4).await;
    for (request, completions) in &answers {
        assert_eq!(completions.len(), request.group_size);
        assert!(completions.iter().any(|c| c.tokens != completions[0].tokens), "all completions are equal");
        for completion in completions {
            assert_eq!(completion.tokens.len(), completion.log_probs.len());
            assert_eq!(completion.tokens.len(), completion.full_log_probs.len());
            assert_eq!((&completion.policy, &completion.last_policy), (version, version));
        }
    }
    answers
}

/// The trainer's forward gives each log-probability that the engine reports.
pub async fn check_log_probs<E: Engine>(engine: &Arc<E>, trainer: &Trainer, step: u64) {
    let version = PolicyVersion { step, adapter: trainer.adapter().unwrap().hash };
    for (request, completions) in check_groups(engine, &version).await {
        let difference = trainer.mismatch(&samples(&request, &completions), step).unwrap().on_policy_max;
        assert!(difference < TOLERANCE, "engine and trainer differ by {difference}");
    }
}

pub async fn check_publish<E: Engine>(engine: Arc<E>, mut trainer: Trainer) {
    check_log_probs(&engine, &trainer, 0).await;
    for step in 0..2 {
        let before = engine.generate(request(9, 2, &[])).await.unwrap();
        let adapter = next_adapter(&engine, &mut trainer, step).await;
        let (hash, version) = (adapter.hash.clone(), engine.publish(step + 1, adapter).await.unwrap());
        assert_eq!((version.adapter, version.step), (hash, step + 1));
        check_log_probs(&engine, &trainer, step + 1).await;
        let after = engine.generate(request(9, 2, &[])).await.unwrap();
        assert_ne!(before[0].log_probs, after[0].log_probs, "the new adapter changed nothing");
    }
}

pub async fn check_repeatable<E: Engine>(engine: Arc<E>) {
    let alone = engine.generate(request(1, 4, &[2])).await.unwrap();
    let with_others = generate_together(&engine, 0..4).await;
    assert_eq!(with_others[1].1, alone);
    let mut other_seed = request(1, 4, &[2]);
    other_seed.seed = 77;
    assert_ne!(engine.generate(other_seed).await.unwrap(), alone);
}

pub async fn check_endings<E: Engine>(engine: Arc<E>) {
    let free = engine.generate(request(3, 1, &[])).await.unwrap().remove(0);
    assert_eq!((free.tokens.len(), free.finish), (32, Finish::Length));
    let stop = free.tokens[5];
    let first = free.tokens.iter().position(|token| *token == stop).unwrap();
    let stopped = engine.generate(request(3, 1, &[stop])).await.unwrap().remove(0);
    assert_eq!((&stopped.tokens[..], stopped.finish), (&free.tokens[..=first], Finish::Stop));
    let mut stopped_by_text = request(3, 1, &[2]);
    let pair = format!("<{}><{}>", free.tokens[6], free.tokens[7]);
    let decode = |tokens: &[u32]| tokens.iter().map(|id| format!("<{id}>")).collect();
    stopped_by_text.sampling.stop_strings = StopStrings::new(vec!["<none>".into(), pair], decode);
    let cut = engine.generate(stopped_by_text).await.unwrap().remove(0);
    assert_eq!((&cut.tokens[..], cut.finish), (&free.tokens[..8], Finish::Stop));
    assert_eq!((cut.log_probs.len(), cut.full_log_probs.len()), (8, 8));
    let mut too_long = request(0, 1, &[]);
    too_long.prompt = vec![5; 512].into();
    assert!(matches!(engine.generate(too_long).await, Err(EngineError::PromptLength { tokens: 512, context: 512 })));
    assert_eq!(
        engine.generate(request(3, 1, &[])).await.unwrap()[0],
        free,
        "after an error the engine must keep answering"
    );
}

/// Completions name the policy that was published last. An adapter whose hash is not that of its bytes is refused.
pub async fn check_versions<E: Engine>(engine: Arc<E>, adapter: engine::Adapter) {
    for step in [1, 2, 7] {
        let version = engine.publish(step, adapter.clone()).await.unwrap();
        assert_eq!((version.step, &version.adapter), (step, &adapter.hash));
        check_groups(&engine, &version).await;
    }
    let changed: Vec<u8> = adapter.bytes.iter().copied().chain([0]).collect();
    let changed = engine::Adapter { bytes: changed.into(), ..adapter.clone() };
    let refused = engine.publish(8, changed).await;
    assert!(matches!(refused, Err(EngineError::WrongAdapter { published, .. }) if published == adapter.hash));
    check_groups(&engine, &PolicyVersion { step: 7, adapter: adapter.hash }).await;
}

/// A suspension waits until running requests are answered. Later requests wait for the next policy.
pub async fn check_suspension<E: Engine>(engine: Arc<E>, mut trainer: Trainer) {
    let adapter = next_adapter(&engine, &mut trainer, 0).await;
    let (running, _) = sent(&engine).await;
    let running = tokio::spawn(running);
    engine.suspend().await.unwrap();
    let answered = tokio::time::timeout(DEADLINE, running).await;
    let answered = answered.expect("the engine was unloaded while a request ran").unwrap();
    assert!(answered.iter().all(|completion| completion.policy.step == 0));
    engine.suspend().await.unwrap();
    let (mut waiting, is_answered) = sent(&engine).await;
    // A suspension ends when every request that the engine runs is answered. So if it ran this one, it would be answered now.
    engine.suspend().await.unwrap();
    assert!(!is_answered && poll_once(&mut waiting).await.is_pending(), "there is no policy to answer with");
    let waiting = tokio::spawn(waiting);
    engine.publish(1, adapter).await.unwrap();
    assert!(waiting.await.unwrap().iter().all(|completion| completion.policy.step == 1));
    check_log_probs(&engine, &trainer, 1).await;
}

/// Top-k 1 draws what greedy takes, with probability 1, and still reports the probability before the cut.
pub async fn check_cuts<E: Engine>(engine: Arc<E>, trainer: &Trainer) {
    let mut greedy = request(2, 2, &[]);
    greedy.sampling.temperature = 0.0;
    let likeliest = engine.generate(greedy).await.unwrap();
    let mut cut = request(2, 2, &[]);
    cut.sampling.top_k = 1;
    let drawn = engine.generate(cut.clone()).await.unwrap();
    for (drawn, likeliest) in drawn.iter().zip(&likeliest) {
        assert_eq!(drawn.tokens, likeliest.tokens);
        assert!(drawn.log_probs.iter().all(|log_prob| log_prob.abs() < 1e-6));
        let pairs = drawn.full_log_probs.iter().zip(&likeliest.full_log_probs);
        assert!(pairs.into_iter().all(|(drawn, likeliest)| (drawn - likeliest).abs() < 1e-5));
    }
    let difference = trainer.mismatch(&samples(&cut, &drawn), 0).unwrap().on_policy_max;
    assert!(difference < TOLERANCE, "engine and trainer differ by {difference}");
}

type Answer = Pin<Box<dyn Future<Output = Vec<Completion>> + Send>>;

/// A request that the engine has: it was polled once. And whether it was answered by then.
async fn sent<E: Engine>(engine: &Arc<E>) -> (Answer, bool) {
    let engine = engine.clone();
    let mut answer: Answer = Box::pin(async move { engine.generate(request(1, 8, &[])).await.unwrap() });
    let is_answered = poll_once(&mut answer).await.is_ready();
    (answer, is_answered)
}

async fn poll_once(answer: &mut Answer) -> Poll<Vec<Completion>> {
    poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await
}
