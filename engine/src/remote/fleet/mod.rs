//! Many servers as one engine. It knows nothing of HTTP: a [`Connect`] makes the servers.
//!
//! Invariant: a group is answered once, whole, by one server, under a policy that was loaded there before it was sent.
//! - `placing.rs` who gets a group · `place.rs` guards of places · `attempt.rs` a group until it is answered
//! - `member.rs` one server's state · `state.rs` all of it, behind one lock · `counters.rs` what is counted
//! - `publish.rs` policies on servers · `keeper.rs` servers that come back, come and go · `file.rs` the endpoints file

mod attempt;
mod counters;
mod file;
mod keeper;
mod member;
mod place;
mod placing;
mod publish;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use attempt::Where;
use counters::{Counters, Event, Gauges};
use file::EndpointsFile;
use member::Standing;
use placing::MemberId;
use publish::Policy;
use state::State;

use super::{Connect, Failure, FailureKind, RemoteSettings, Server};
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Request};

/// How long [`Fleet::close`] waits for servers, and then for folders.
const UNLOADING: Duration = Duration::from_secs(4);
const RETIRING: Duration = Duration::from_secs(1);

/// An engine made of servers. Dropping it stops its background tasks; [`Fleet::close`] also tidies up on the servers.
pub struct Fleet<C: Connect> {
    shared: Arc<Shared<C>>,
    /// The keeper and the watcher of the endpoints file; dropping the set aborts them.
    tasks: Mutex<JoinSet<()>>,
}

/// What requests, publishes and the keeper share.
struct Shared<C: Connect> {
    connect: C,
    settings: RemoteSettings,
    counters: Counters,
    state: Mutex<State<C::Server>>,
    /// How many publishes there were; held during one, so that they follow each other.
    publishes: tokio::sync::Mutex<u64>,
    /// A server was taken in.
    came_in: Notify,
}

impl<C: Connect> Fleet<C> {
    /// Checks all servers and loads `adapter` on them as the policy of step 0. Servers that do not answer are taken in
    /// later.
    ///
    /// # Errors
    /// [`EngineError::Endpoint`] if a server cannot serve training exactly, if none can be used, or if the endpoints
    /// file cannot be read; [`EngineError::WrongAdapter`] as [`Engine::publish`].
    pub async fn start(connect: C, settings: RemoteSettings, adapter: Adapter) -> Result<Self, EngineError> {
        let hash = adapter.verify()?;
        let policy = Arc::new(Policy::new(&settings.run_id, 0, 0, hash, adapter));
        let file = match &settings.endpoints_file {
            Some(path) => Some(EndpointsFile::open(path, settings.max_sequences).await?),
            None => None,
        };
        let shared = Arc::new(Shared {
            connect,
            counters: Counters::default(),
            state: Mutex::new(State::new(policy, Instant::now())),
            publishes: tokio::sync::Mutex::new(0),
            came_in: Notify::new(),
            settings,
        });
        shared.add_all(file.as_ref())?;
        if let Err(error) = shared.take_all_in().await {
            shared.close().await;
            return Err(error);
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper::keep(Arc::clone(&shared)));
        if let Some(file) = file {
            tasks.spawn(keeper::watch(Arc::clone(&shared), file));
        }
        Ok(Self { shared, tasks: Mutex::new(tasks) })
    }

    /// Unloads this run's policies from all servers, as far as that works within 5 s. Waiting and later requests get
    /// [`EngineError::Stopped`].
    pub async fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.shared.close().await;
    }
}

impl<C: Connect> Engine for Fleet<C> {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        self.shared.generate(Where::AnyServer, &request).await
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        self.shared.publish(step, adapter).await
    }

    fn concurrency(&self, group_size: usize) -> usize {
        let state = self.shared.state();
        let staying = state.members.values().filter(|member| member.standing != Standing::Leaving);
        // One more group than fits on each server, so that none waits for the next.
        let groups = staying.map(|member| member.server.max_sequences() / group_size.max(1) + 1);
        groups.sum::<usize>().max(1)
    }

    fn endpoints(&self) -> Vec<Arc<str>> {
        self.shared.state().up().map(|(_, member)| Arc::clone(member.server.url())).collect()
    }

    async fn generate_at(&self, endpoint: &str, request: Request) -> Result<Vec<Completion>, EngineError> {
        let id = self.shared.state().find(endpoint);
        let id = id.ok_or_else(|| EngineError::Generate(format!("{endpoint} is no server of this run")))?;
        self.shared.generate(Where::Only(id), &request).await
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let now = {
            let state = self.shared.state();
            Gauges { servers: state.members.len(), servers_up: state.placing.up(), waiting: state.placing.waiting() }
        };
        self.shared.counters.all(now)
    }
}

impl<C: Connect> Shared<C> {
    /// The lock protects plain values, which are whole after each change, even if a thread panicked.
    fn state(&self) -> MutexGuard<'_, State<C::Server>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self, id: MemberId, took: Duration) {
        let mut state = self.state();
        state.durations.push(took);
        if let Some(member) = state.members.get_mut(&id) {
            member.succeeded(Instant::now());
        }
    }

    /// Notes a failure of a request that was sent in `epoch` of the server, under `policy`.
    fn failed(&self, id: MemberId, epoch: u64, policy: Option<&str>, failure: &Failure) {
        self.counters.failed(failure.kind);
        let mut state = self.state();
        let member = state.members.get_mut(&id).filter(|member| member.epoch == epoch);
        let is_too_many = member.is_some_and(|member| member.failed(failure, policy));
        if is_too_many && state.take_out(id, failure, Instant::now()) {
            self.counters.add(Event::TakenOut);
        }
    }

    /// Takes a server out whatever its failure.
    fn take_out(&self, id: MemberId, failure: &Failure) {
        self.counters.failed(failure.kind);
        if self.state().take_out(id, failure, Instant::now()) {
            self.counters.add(Event::TakenOut);
        }
    }

    fn add_all(&self, file: Option<&EndpointsFile>) -> Result<(), EngineError> {
        for endpoint in &self.settings.endpoints {
            self.add(endpoint, false)?;
        }
        let Some(file) = file else { return Ok(()) };
        match self.follow(file).into_iter().min_by_key(|bad| bad.line) {
            Some(bad) => Err(bad.error(&file.path)),
            None => Ok(()),
        }
    }

    /// Checks all servers at the same time.
    async fn take_all_in(&self) -> Result<(), EngineError> {
        let urls = self.begin_checks();
        let checks = join_all(urls.iter().map(|(id, _)| self.check(*id))).await;
        let failed: Vec<_> =
            urls.iter().zip(checks).filter_map(|((id, url), check)| Some((*id, url, check.err()?))).collect();
        if let Some((_, url, failure)) = failed.iter().find(|(_, _, failure)| failure.kind == FailureKind::Unfit) {
            return Err(EngineError::Endpoint { url: url.to_string(), problem: failure.problem.clone() });
        }
        if failed.len() == urls.len() {
            return Err(none_usable(&failed));
        }
        for (id, url, failure) in failed {
            tracing::warn!(%url, "server not taken in yet: {failure}");
            if let Some(member) = self.state().members.get_mut(&id) {
                member.still_out(failure, Instant::now(), rand::random());
            }
        }
        Ok(())
    }

    fn begin_checks(&self) -> Vec<(MemberId, Arc<str>)> {
        let now = Instant::now();
        let mut state = self.state();
        let due = state.members.iter_mut().filter_map(|(id, member)| member.begin_check(now).then_some((*id, member)));
        due.map(|(id, member)| (id, Arc::clone(member.server.url()))).collect()
    }

    async fn close(&self) {
        let servers: Vec<_> = {
            let mut state = self.state();
            state.placing.close();
            state.members.values_mut().map(|member| (Arc::clone(&member.server), member.forget_all())).collect()
        };
        let mut names: Vec<_> = servers.iter().flat_map(|(_, names)| names.clone()).collect();
        names.sort();
        names.dedup();
        if timeout(UNLOADING, self.unload_all(servers)).await.is_err() {
            tracing::warn!("some servers did not unload this run's adapters in {} s", UNLOADING.as_secs());
        }
        let retired = join_all(names.iter().map(|name| self.connect.retire(name)));
        if timeout(RETIRING, retired).await.is_err() {
            tracing::warn!("some of this run's adapters were left in the servers' folder");
        }
    }
}

fn none_usable(failed: &[(MemberId, &Arc<str>, Failure)]) -> EngineError {
    let Some((_, first, _)) = failed.first() else {
        return EngineError::Endpoint { url: "endpoints".into(), problem: "no server is named".into() };
    };
    let each: Vec<_> = failed.iter().map(|(_, url, failure)| format!("{url}: {failure}")).collect();
    EngineError::Endpoint { url: first.to_string(), problem: format!("no server can be used: {}", each.join("; ")) }
}
