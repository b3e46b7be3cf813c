//! A fleet over scripted servers, in tokio's paused time.

mod failing;
mod files;
mod hedging;
mod load;
mod placing;
mod publishing;
mod random;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use url::Url;

use super::Fleet;
use crate::remote::{
    Answer, Capabilities, Connect, EndpointSettings, Failure, FailureKind, RemoteSettings, ServedModel, Server,
};
use crate::{Adapter, Completion, Engine, EngineError, Finish, LoraConfig, Request, Sampling};

/// What a scripted server does, and what it saw.
struct Script {
    url: Arc<str>,
    max_sequences: usize,
    state: Mutex<Scripted>,
}

#[derive(Clone)]
struct Scripted {
    /// Everything fails, and adapters are lost.
    down: bool,
    /// Counts how often it went down: requests from before fail.
    outages: usize,
    latency: Duration,
    load_latency: Duration,
    /// The next groups fail so, one each.
    failures: VecDeque<FailureKind>,
    load_failure: Option<FailureKind>,
    probe_failure: Option<FailureKind>,
    keeps_seeds: bool,
    adapters: Vec<String>,
    /// The most adapters that were there at the same time.
    peak_adapters: usize,
    sequences: usize,
    peak_sequences: usize,
    /// The policies of the groups, in the order in which they came.
    groups: Vec<(u64, String)>,
    /// Groups that were answered.
    answered: usize,
    pings: usize,
    probes: usize,
}

impl Script {
    fn new(url: Arc<str>, max_sequences: usize, start: Scripted) -> Self {
        Self { url, max_sequences, state: Mutex::new(start) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Scripted) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    fn go_down(&self) {
        self.with(|state| {
            state.down = true;
            state.outages += 1;
            state.adapters.clear();
        });
    }

    fn come_up(&self) {
        self.with(|state| state.down = false);
    }

    fn seeds(&self) -> Vec<u64> {
        self.with(|state| state.groups.iter().map(|(seed, _)| *seed).collect())
    }

    fn alive(&self) -> Result<(), Failure> {
        match self.with(|state| state.down) {
            true => Err(Failure::new(FailureKind::Unreachable, "it is down")),
            false => Ok(()),
        }
    }
}

impl Scripted {
    fn new() -> Self {
        Self {
            down: false,
            outages: 0,
            latency: Duration::from_secs(1),
            load_latency: Duration::ZERO,
            failures: VecDeque::new(),
            load_failure: None,
            probe_failure: None,
            keeps_seeds: true,
            adapters: Vec::new(),
            peak_adapters: 0,
            sequences: 0,
            peak_sequences: 0,
            groups: Vec::new(),
            answered: 0,
            pings: 0,
            probes: 0,
        }
    }
}

/// Counts sequences of a group, also if its future is dropped.
struct Counted<'a>(&'a Script, usize);

impl<'a> Counted<'a> {
    fn new(script: &'a Script, size: usize) -> Self {
        script.with(|state| {
            state.sequences += size;
            state.peak_sequences = state.peak_sequences.max(state.sequences);
        });
        Self(script, size)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.sequences -= self.1);
    }
}

/// A connection to a scripted server.
struct Fake {
    script: Arc<Script>,
    events: Events,
}

/// Loads and unloads of all servers, in order.
type Events = Arc<Mutex<Vec<String>>>;

impl Server for Fake {
    fn url(&self) -> &Arc<str> {
        &self.script.url
    }

    fn max_sequences(&self) -> usize {
        self.script.max_sequences
    }

    async fn probe(&self) -> Result<Capabilities, Failure> {
        self.script.with(|state| state.probes += 1);
        self.script.alive()?;
        let (failure, keeps_seeds) = self.script.with(|state| (state.probe_failure, state.keeps_seeds));
        match failure {
            Some(kind) => Err(Failure::new(kind, "scripted probe")),
            None => Ok(Capabilities { name: "scripted".into(), keeps_seeds }),
        }
    }

    async fn generate(&self, policy: &str, request: &Request) -> Result<Vec<Answer>, Failure> {
        let _counted = Counted::new(&self.script, request.group_size);
        self.script.alive()?;
        let (has, failure, latency, outages) = self.script.with(|state| {
            state.groups.push((request.seed, policy.to_owned()));
            let has = state.adapters.iter().any(|name| name == policy);
            (has, state.failures.pop_front(), state.latency, state.outages)
        });
        if !has {
            return Err(Failure::new(FailureKind::NoSuchPolicy, policy));
        }
        if let Some(kind) = failure {
            return Err(Failure::new(kind, "scripted"));
        }
        sleep(latency).await;
        self.script.alive()?;
        if self.script.with(|state| state.outages) != outages {
            return Err(Failure::new(FailureKind::Unreachable, "it was down"));
        }
        self.script.with(|state| state.answered += 1);
        Ok((0..request.group_size).map(|index| answer(request.seed, index)).collect())
    }

    async fn load(&self, policy: &str, _: &Adapter) -> Result<(), Failure> {
        self.script.alive()?;
        sleep(self.script.with(|state| state.load_latency)).await;
        if let Some(kind) = self.script.with(|state| state.load_failure) {
            return Err(Failure::new(kind, "scripted load"));
        }
        self.script.with(|state| {
            if !state.adapters.iter().any(|name| name == policy) {
                state.adapters.push(policy.to_owned());
            }
            state.peak_adapters = state.peak_adapters.max(state.adapters.len());
        });
        self.events.lock().unwrap().push(format!("load {}", number(policy)));
        Ok(())
    }

    async fn unload(&self, policy: &str) -> Result<(), Failure> {
        self.script.alive()?;
        self.script.with(|state| state.adapters.retain(|name| name != policy));
        self.events.lock().unwrap().push(format!("unload {}", number(policy)));
        Ok(())
    }

    async fn adapters(&self) -> Result<Vec<String>, Failure> {
        self.script.alive()?;
        Ok(self.script.with(|state| state.adapters.clone()))
    }

    async fn health(&self) -> Result<(), Failure> {
        self.script.with(|state| state.pings += 1);
        self.script.alive()
    }
}

/// Which publish a name is of.
fn number(policy: &str) -> &str {
    policy.split('-').nth(4).unwrap_or(policy)
}

fn answer(seed: u64, index: usize) -> Answer {
    let tokens = vec![seed as u32, index as u32];
    Answer { tokens, log_probs: vec![-1.0; 2], full_log_probs: vec![-1.0; 2], finish: Finish::Stop }
}

/// The servers by address, and what happened.
#[derive(Clone)]
struct World {
    scripts: Arc<Mutex<BTreeMap<String, Arc<Script>>>>,
    events: Events,
    /// How servers begin.
    start: Scripted,
}

impl World {
    fn new() -> Self {
        Self { scripts: Arc::default(), events: Arc::default(), start: Scripted::new() }
    }

    fn with(change: impl FnOnce(&mut Scripted)) -> Self {
        let mut world = Self::new();
        change(&mut world.start);
        world
    }

    /// Server number `at` of [`settings`].
    fn server(&self, at: usize) -> Arc<Script> {
        self.at(url(at).as_str(), 0)
    }

    fn at(&self, url: &str, max_sequences: usize) -> Arc<Script> {
        let mut scripts = self.scripts.lock().unwrap();
        let new = || Arc::new(Script::new(url.into(), max_sequences, self.start.clone()));
        Arc::clone(scripts.entry(url.to_owned()).or_insert_with(new))
    }

    /// Makes server `at` before the fleet does, so that it can begin differently.
    fn prepare(&self, at: usize, max_sequences: usize, change: impl FnOnce(&mut Scripted)) {
        self.at(url(at).as_str(), max_sequences).with(change);
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

impl Connect for World {
    type Server = Fake;

    fn connect(&self, settings: &EndpointSettings) -> Result<Fake, EngineError> {
        let script = self.at(settings.url.as_str(), settings.max_sequences);
        Ok(Fake { script, events: Arc::clone(&self.events) })
    }

    async fn retire(&self, policy: &str) {
        self.events.lock().unwrap().push(format!("retire {}", number(policy)));
    }
}

fn url(at: usize) -> Url {
    Url::parse(&format!("http://server-{at}:8000")).unwrap()
}

/// `servers` with room for `max_sequences` each.
fn settings(servers: usize, max_sequences: usize) -> RemoteSettings {
    let endpoint = |at| EndpointSettings { url: url(at), model: None, max_sequences };
    RemoteSettings {
        run_id: "run".into(),
        endpoints: (0..servers).map(endpoint).collect(),
        endpoints_file: None,
        router: None,
        adapters: None,
        token: None,
        ca: None,
        max_sequences,
        request_timeout: Duration::from_secs(600),
        control_timeout: Duration::from_secs(60),
        retries: 5,
        hedges: false,
        kept_policies: 3,
        model: ServedModel { vocab_size: 100, context: 512, temperature: 1.0, truncates: false },
    }
}

fn adapter(content: u8) -> Adapter {
    let config = LoraConfig::new(4, 8.0, vec!["q_proj".into()], "base".into());
    Adapter::new(Arc::new(config), vec![content; 4])
}

async fn start(world: &World, settings: RemoteSettings) -> Arc<Fleet<World>> {
    Arc::new(Fleet::start(world.clone(), settings, adapter(0)).await.unwrap())
}

fn request(seed: u64, group_size: usize) -> Request {
    Request { prompt: vec![1, 2].into(), group_size, seed, sampling: Sampling::new(1.0, vec![0]) }
}

type Answered = Result<Vec<Completion>, EngineError>;

/// Sends a group without waiting for it, and lets it be placed.
async fn send(fleet: &Arc<Fleet<World>>, request: Request) -> tokio::task::JoinHandle<Answered> {
    let fleet = Arc::clone(fleet);
    let sent = tokio::spawn(async move { fleet.generate(request).await });
    settle().await;
    sent
}

/// Lets all tasks do what they can without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// The whole group of `seed`, once each.
fn assert_whole(completions: &[Completion], seed: u64, group_size: usize) {
    let tokens: Vec<_> = completions.iter().map(|completion| completion.tokens.clone()).collect();
    let expected: Vec<_> = (0..group_size).map(|index| vec![seed as u32, index as u32]).collect();
    assert_eq!(tokens, expected);
}

fn counter(fleet: &Fleet<World>, name: &str) -> u64 {
    fleet.counters().iter().find(|(counted, _)| *counted == name).map(|(_, count)| *count).unwrap()
}

fn message(answered: Answered) -> String {
    match answered {
        Err(EngineError::Generate(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
