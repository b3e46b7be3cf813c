//! Looks after the servers: brings back those that are out, asks silent ones for their health, and follows the endpoints
//! file.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Shared;
use super::file::{BadLine, EndpointsFile};
use super::member::{Member, Standing};
use super::placing::MemberId;
use super::publish::{is_of_run, load_and_list};
use crate::EngineError;
use crate::remote::{Connect, EndpointSettings, Failure, FailureKind, Server};

/// How exactly the times of checks are kept.
const TICK: Duration = Duration::from_millis(200);
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// Runs until it is aborted, and its checks with it.
pub(super) async fn keep<C: Connect>(shared: Arc<Shared<C>>) {
    let mut tasks = JoinSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!("a check of a server ended early: {error}");
            }
        }
        let due = shared.due();
        for id in due.checks {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.bring_back(id).await });
        }
        for (id, epoch, server) in due.pings {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.ping(id, epoch, &*server).await });
        }
        if !due.drained.is_empty() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.see_off(due.drained).await });
        }
    }
}

/// What the keeper has to do now.
struct Due<S> {
    checks: Vec<MemberId>,
    pings: Vec<(MemberId, u64, Arc<S>)>,
    drained: Vec<Member<S>>,
}

impl<C: Connect> Shared<C> {
    fn due(&self) -> Due<C::Server> {
        let now = Instant::now();
        let mut state = self.state();
        state.placing.expire(now);
        let mut due = Due { checks: Vec::new(), pings: Vec::new(), drained: state.drained() };
        for (id, member) in &mut state.members {
            if member.begin_check(now) {
                due.checks.push(*id);
            } else if member.begin_ping(now) {
                due.pings.push((*id, member.epoch, Arc::clone(&member.server)));
            }
        }
        due
    }

    async fn bring_back(&self, id: MemberId) {
        let Err(failure) = self.check(id).await else { return };
        let mut state = self.state();
        let Some(member) = state.members.get_mut(&id) else { return };
        if failure.kind == FailureKind::Unfit {
            tracing::warn!(url = %member.server.url(), "server not taken in: {failure}");
        }
        member.still_out(failure, Instant::now(), rand::random());
    }

    /// Probes a server, loads the current policy there, and takes it in.
    pub(super) async fn check(&self, id: MemberId) -> Result<(), Failure> {
        let result = self.try_check(id).await;
        if let Err(failure) = &result {
            self.counters.failed(failure.kind);
        }
        result
    }

    async fn try_check(&self, id: MemberId) -> Result<(), Failure> {
        let server = self.state().members.get(&id).map(|member| Arc::clone(&member.server));
        let Some(server) = server else { return Ok(()) };
        let capabilities = server.probe().await?;
        let lost = loop {
            let policy = Arc::clone(&self.state().current);
            let mut names = load_and_list(&*server, &policy).await?;
            names.retain(|name| is_of_run(name, &self.settings.run_id));
            let mut state = self.state();
            // After a publish in between it needs the next policy.
            if Arc::ptr_eq(&state.current, &policy) {
                let lost = state.members.get_mut(&id).map(|member| member.has_only(&names));
                state.take_in(id, capabilities.keeps_seeds, Instant::now());
                break lost.unwrap_or_default();
            }
        };
        self.came_in.notify_waiters();
        tracing::info!(url = %server.url(), "server taken in: {}", capabilities.name);
        let unloaded = self.tidy(id).await;
        self.retire(lost.into_iter().chain(unloaded)).await;
        Ok(())
    }

    async fn ping(&self, id: MemberId, epoch: u64, server: &C::Server) {
        if let Err(failure) = server.health().await {
            self.failed(id, epoch, None, &failure);
        }
    }

    /// Unloads our policies from servers that were removed.
    async fn see_off(&self, members: Vec<Member<C::Server>>) {
        let servers: Vec<_> =
            members.into_iter().map(|mut member| (member.server.clone(), member.forget_all())).collect();
        let names: Vec<_> = servers.iter().flat_map(|(_, names)| names.clone()).collect();
        self.unload_all(servers).await;
        self.retire(names.into_iter()).await;
    }

    /// Adds a server, unless it is there already. The keeper checks it next.
    pub(super) fn add(&self, endpoint: &EndpointSettings, from_file: bool) -> Result<Arc<str>, EngineError> {
        let server = self.connect.connect(endpoint)?;
        let url = Arc::clone(server.url());
        let now = Instant::now();
        let mut state = self.state();
        match state.find(&url).and_then(|id| state.members.get_mut(&id)) {
            None => drop(state.add(server, from_file, now)),
            Some(member) if member.standing == Standing::Leaving => {
                member.standing = Standing::Out { tries: 0, check_at: now };
            }
            Some(_) => {}
        }
        Ok(url)
    }

    /// Makes the servers of the file those that it names now. Returns the bad lines.
    pub(super) fn follow(&self, file: &EndpointsFile) -> Vec<BadLine> {
        let (good, mut bad) = file.lines();
        let mut named = HashSet::new();
        for good in good {
            match self.add(&good.endpoint, true) {
                Ok(url) => drop(named.insert(url)),
                Err(error) => bad.push(BadLine { line: good.line, problem: error.to_string() }),
            }
        }
        let mut state = self.state();
        let gone = state.members.iter().filter(|(_, member)| {
            member.from_file && member.standing != Standing::Leaving && !named.contains(member.server.url())
        });
        let gone: Vec<_> = gone.map(|(id, member)| (*id, Arc::clone(member.server.url()))).collect();
        for (id, url) in gone {
            tracing::info!(%url, "server no longer in {}", file.path.display());
            state.leave(id, Instant::now());
        }
        bad
    }
}

/// Follows the endpoints file until it is aborted.
pub(super) async fn watch<C: Connect>(shared: Arc<Shared<C>>, mut file: EndpointsFile) {
    loop {
        tokio::time::sleep(FILE_INTERVAL).await;
        if file.changed().await {
            for bad in shared.follow(&file) {
                tracing::warn!("{}:{}: {}; ignored", file.path.display(), bad.line, bad.problem);
            }
        }
    }
}
