//! A deterministic fake engine for tests: it answers with scripted tokens after a scripted latency.
//!
//! Tokens are a function of the request, the completion's index and the policy, so the same request gets the same
//! answer. Latency is a `tokio::time::sleep`, so paused time works. Invariant: every call of `generate` is counted,
//! whether it answers, fails or is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Adapter, AdapterHash, Completion, Engine, EngineError, Finish, PolicyVersion, Request, Sampling};

/// Log-probability of every scripted token: ln ½.
pub const LOG_PROB: f32 = -std::f32::consts::LN_2;

/// So many of the latest policies are known. A long run has many.
const MOST_POLICIES: usize = 1_000;

type Script = dyn Fn(&Request, usize, &PolicyVersion) -> Vec<u32> + Send + Sync;
type Latency = dyn Fn(&Request) -> Duration + Send + Sync;
type Failure = dyn Fn(&Request, usize) -> Option<EngineError> + Send + Sync;

pub struct Scripted {
    script: Box<Script>,
    latency: Box<Latency>,
    failure: Option<Box<Failure>>,
    concurrency: usize,
    context: usize,
    state: Mutex<ScriptState>,
    running: Arc<AtomicUsize>,
}

struct ScriptState {
    /// Never empty; the last one is current.
    published: Vec<PolicyVersion>,
    /// How often a request with this prompt and seed has arrived, if some fail.
    attempts: HashMap<(Arc<[u32]>, u64), usize>,
    calls: usize,
    most_running: usize,
}

impl Scripted {
    /// `script(request, index, policy)` returns the tokens of completion `index`. They are cut after the first stop
    /// token and at `max_new_tokens`. The policy of step 0 has the hash `base`.
    pub fn new(script: impl Fn(&Request, usize, &PolicyVersion) -> Vec<u32> + Send + Sync + 'static) -> Self {
        let base = PolicyVersion { step: 0, adapter: AdapterHash("base".into()) };
        Self {
            script: Box::new(script),
            latency: Box::new(|_| Duration::ZERO),
            failure: None,
            concurrency: 1,
            context: usize::MAX,
            state: Mutex::new(ScriptState {
                published: vec![base],
                attempts: HashMap::new(),
                calls: 0,
                most_running: 0,
            }),
            running: Arc::default(),
        }
    }

    /// Sets how long a request takes.
    pub fn with_latency(mut self, latency: impl Fn(&Request) -> Duration + Send + Sync + 'static) -> Self {
        self.latency = Box::new(latency);
        self
    }

    /// `failure(request, attempt)` says whether this attempt, counted from 0, fails. It fails after the latency.
    pub fn with_failure(
        mut self,
        failure: impl Fn(&Request, usize) -> Option<EngineError> + Send + Sync + 'static,
    ) -> Self {
        self.failure = Some(Box::new(failure));
        self
    }

    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets the greatest length of prompt and completion together.
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = context;
        self
    }

    /// The latest 1,000 policies, oldest first. In a short run the first is that of step 0.
    pub fn published(&self) -> Vec<PolicyVersion> {
        self.state().published.clone()
    }

    /// How many requests have arrived.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The greatest number of requests that ran at the same time.
    pub fn most_running(&self) -> usize {
        self.state().most_running
    }

    fn state(&self) -> MutexGuard<'_, ScriptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the request. Returns the policy it starts with, and which attempt it is.
    fn arrive(&self, request: &Request, running: usize) -> (Option<PolicyVersion>, usize) {
        let mut state = self.state();
        state.calls += 1;
        state.most_running = state.most_running.max(running);
        let policy = state.published.last().cloned();
        // Nothing is kept of the many requests of a long run in which none fails.
        if self.failure.is_none() {
            return (policy, 0);
        }
        let count = state.attempts.entry((Arc::clone(&request.prompt), request.seed)).or_default();
        *count += 1;
        (policy, *count - 1)
    }
}

impl Engine for Scripted {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        let most = request.room(self.context)?;
        let running = RunningCount::enter(&self.running);
        let (policy, attempt) = self.arrive(&request, running.count);
        let policy = policy.ok_or(EngineError::Stopped)?;
        tokio::time::sleep((self.latency)(&request)).await;
        if let Some(error) = self.failure.as_ref().and_then(|failure| failure(&request, attempt)) {
            return Err(error);
        }
        let tokens = (0..request.group_size).map(|index| (self.script)(&request, index, &policy));
        let completions = tokens.map(|tokens| {
            let completion = complete(tokens, most, &request.sampling, &policy);
            let log_probs = vec![LOG_PROB; completion.tokens.len()];
            Completion { full_log_probs: log_probs.clone(), log_probs, ..completion }
        });
        Ok(completions.collect())
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let version = PolicyVersion { step, adapter: adapter.verify()? };
        let mut state = self.state();
        state.published.push(version.clone());
        if state.published.len() > MOST_POLICIES {
            state.published.remove(0);
        }
        Ok(version)
    }

    fn concurrency(&self, _group_size: usize) -> usize {
        self.concurrency
    }
}

/// Counts a request while it exists, so that a dropped one is also subtracted.
struct RunningCount {
    total: Arc<AtomicUsize>,
    /// How many ran when this one arrived, itself included.
    count: usize,
}

impl RunningCount {
    fn enter(total: &Arc<AtomicUsize>) -> Self {
        Self { total: Arc::clone(total), count: total.fetch_add(1, Ordering::SeqCst) + 1 }
    }
}

impl Drop for RunningCount {
    fn drop(&mut self) {
        self.total.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Cuts scripted tokens where sampling would have ended. A script that ends earlier counts as [`Finish::Length`].
fn complete(mut tokens: Vec<u32>, most: usize, sampling: &Sampling, policy: &PolicyVersion) -> Completion {
    let ends = |len: usize| Some((len, sampling.finish(&tokens[..len], most)?));
    let (len, finish) = (1..=tokens.len()).find_map(ends).unwrap_or((tokens.len(), Finish::Length));
    tokens.truncate(len);
    let (policy, last_policy) = (policy.clone(), policy.clone());
    Completion {
        tokens,
        full_log_probs: Vec::new(),
        log_probs: Vec::new(),
        finish,
        policy,
        last_policy,
        endpoint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoraConfig;

    fn request(seed: u64, group_size: usize) -> Request {
        let sampling = Sampling { max_new_tokens: 4, ..Sampling::new(1.0, vec![9]) };
        Request { prompt: [1, 2].into(), group_size, seed, sampling }
    }

    fn counting() -> Scripted {
        Scripted::new(|request, index, policy| vec![request.seed as u32, index as u32, policy.step as u32])
    }

    #[tokio::test]
    async fn tokens_follow_request_index_and_policy() {
        let engine = counting();
        let adapter = Adapter::new(LoraConfig::new(1, 1.0, vec![], String::new()).into(), vec![7]);
        let published = engine.publish(3, adapter.clone()).await.expect("a publish");
        assert_eq!(published, PolicyVersion { step: 3, adapter: adapter.hash });
        let group = engine.generate(request(5, 2)).await.expect("a group");
        let tokens: Vec<&[u32]> = group.iter().map(|completion| completion.tokens.as_slice()).collect();
        assert_eq!(tokens, [&[5, 0, 3], &[5, 1, 3]]);
        assert!(group.iter().all(|completion| completion.policy == published && completion.log_probs == [LOG_PROB; 3]));
        assert_eq!(engine.published().iter().map(|version| version.step).collect::<Vec<_>>(), [0, 3]);
    }

    #[tokio::test]
    async fn tokens_are_cut_as_sampling_would_end_them() {
        let check = async |script: &'static [u32], tokens: &[u32], finish: Finish| {
            let engine = Scripted::new(|_, _, _| script.to_vec());
            let group = engine.generate(request(0, 1)).await.expect("a group");
            assert_eq!((group[0].tokens.as_slice(), group[0].finish), (tokens, finish), "{script:?}");
        };
        check(&[1, 9, 2], &[1, 9], Finish::Stop).await;
        check(&[1, 2, 3, 4, 9], &[1, 2, 3, 4], Finish::Length).await;
        check(&[1, 2, 3, 9, 5], &[1, 2, 3, 9], Finish::Stop).await;
    }

    #[tokio::test]
    async fn failures_count_attempts_of_one_request() {
        let engine = counting().with_failure(|request, attempt| {
            (request.seed == 1 && attempt < 2).then(|| EngineError::Generate("scripted".into()))
        });
        assert!(engine.generate(request(0, 1)).await.is_ok());
        for fails in [true, true, false] {
            assert_eq!(engine.generate(request(1, 1)).await.is_err(), fails);
        }
        assert_eq!(engine.calls(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_virtual_and_requests_overlap() {
        let engine = counting().with_latency(|request| Duration::from_secs(request.seed));
        let start = tokio::time::Instant::now();
        let (slow, fast) = tokio::join!(engine.generate(request(60, 1)), engine.generate(request(30, 1)));
        assert!(slow.is_ok() && fast.is_ok());
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        assert_eq!(engine.most_running(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_keeps_the_policy_it_started_with() {
        let engine = counting().with_latency(|_| Duration::from_secs(9));
        let adapter = Adapter::new(LoraConfig::new(1, 1.0, vec![], String::new()).into(), vec![7]);
        let (group, _) = tokio::join!(engine.generate(request(0, 1)), engine.publish(1, adapter));
        assert_eq!(group.expect("a group")[0].policy.step, 0);
    }
}
