//! Policies on servers: new names, loading before unloading, and no more of them than a server has room for.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Shared;
use super::placing::{LONGEST_OUTAGE, MemberId};
use crate::remote::{Connect, Failure, FailureKind, Server};
use crate::{Adapter, AdapterHash, EngineError, PolicyVersion};

/// A server and its number in the fleet.
type Numbered<S> = (MemberId, Arc<S>);

/// A server and the policies that it has loaded.
type Holding<S> = (Arc<S>, Vec<Arc<str>>);

/// An adapter under the name that servers know it by.
pub(super) struct Policy {
    pub(super) name: Arc<str>,
    pub(super) version: PolicyVersion,
    pub(super) adapter: Adapter,
}

impl Policy {
    /// `number` counts the publishes of this run, so that no name is used twice.
    pub(super) fn new(run_id: &str, step: u64, number: u64, hash: AdapterHash, adapter: Adapter) -> Self {
        let name = format!("dump-rl-{run_id}-s{step}-{number}-{}", hash.0.get(..8).unwrap_or(&hash.0));
        Self { name: name.into(), version: PolicyVersion { step, adapter: hash }, adapter }
    }
}

/// Whether [`Policy::new`] made this name for this run, now or before a restart.
pub(super) fn is_of_run(name: &str, run_id: &str) -> bool {
    let Some(rest) = name.strip_prefix("dump-rl-").and_then(|rest| rest.strip_prefix(run_id)) else { return false };
    let Some(rest) = rest.strip_prefix("-s") else { return false };
    let parts: Vec<_> = rest.split('-').collect();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    matches!(parts[..], [step, number, hash] if is_number(step) && is_number(number) && hash.len() == 8)
}

impl<C: Connect> Shared<C> {
    /// As [`crate::Engine::publish`].
    pub(super) async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let hash = adapter.verify()?;
        let mut number = self.publishes.lock().await;
        *number += 1;
        let policy = Arc::new(Policy::new(&self.settings.run_id, step, *number, hash, adapter));
        self.load_everywhere(&policy).await?;
        self.wait_for_one(&policy).await?;
        let ids: Vec<_> = self.state().up().map(|(id, _)| id).collect();
        let unloaded = join_all(ids.into_iter().map(|id| self.tidy(id))).await;
        self.retire(unloaded.into_iter().flatten()).await;
        Ok(policy.version.clone())
    }

    /// Loads a policy on every server in use, and makes it the current one when no server is left to try. Those that
    /// fail are taken out.
    async fn load_everywhere(&self, policy: &Arc<Policy>) -> Result<(), EngineError> {
        let mut tried = BTreeSet::new();
        let mut refused = None;
        let mut loaded = 0;
        loop {
            // A server that came back meanwhile has the policy of before, so it takes its turn.
            let refusal = refused.as_deref().filter(|_| loaded == 0);
            let untried = self.untried_or_switch(policy, &tried, refusal)?;
            if untried.is_empty() {
                return Ok(());
            }
            tried.extend(untried.iter().map(|(id, _)| *id));
            let loads = untried.iter().map(|(_, server)| load(&**server, policy));
            for ((id, server), result) in untried.iter().zip(join_all(loads).await) {
                match result {
                    Ok(()) => {
                        loaded += 1;
                        self.loaded(*id, policy);
                    }
                    Err(failure) => {
                        self.take_out(*id, &failure);
                        if failure.kind == FailureKind::Refused {
                            refused = Some(format!("{}: {failure}", server.url()));
                        }
                    }
                }
            }
        }
    }

    /// `refused`: what a server said about an adapter that no server took. Waiting would not help then.
    fn untried_or_switch(
        &self,
        policy: &Arc<Policy>,
        tried: &BTreeSet<MemberId>,
        refused: Option<&str>,
    ) -> Result<Vec<Numbered<C::Server>>, EngineError> {
        let mut state = self.state();
        if state.placing.is_closed() {
            return Err(EngineError::Stopped);
        }
        let untried = state.untried(tried);
        if untried.is_empty() {
            if let Some(refused) = refused {
                return Err(EngineError::Generate(format!("no server took adapter {}: {refused}", policy.name)));
            }
            state.current = Arc::clone(policy);
        }
        Ok(untried)
    }

    fn loaded(&self, id: MemberId, policy: &Policy) {
        if let Some(member) = self.state().members.get_mut(&id) {
            member.loaded(&policy.name);
        }
    }

    /// Until a server has the current policy. The keeper loads it on those that come back.
    async fn wait_for_one(&self, policy: &Policy) -> Result<(), EngineError> {
        let one_is_up = async {
            loop {
                let came_in = self.came_in.notified();
                if self.state().up().next().is_some() {
                    return;
                }
                came_in.await;
            }
        };
        timeout(LONGEST_OUTAGE, one_is_up).await.map_err(|_| {
            let failures = self.state().failures();
            EngineError::Generate(format!("no server took adapter {}: {failures}", policy.name))
        })
    }

    /// Unloads what a server no longer needs, and returns it. There stays room for the next policy, which is loaded
    /// before anything is unloaded.
    pub(super) async fn tidy(&self, id: MemberId) -> Vec<Arc<str>> {
        let keep = self.settings.kept_policies.saturating_sub(1).max(1);
        let found = {
            let mut state = self.state();
            let current = Arc::clone(&state.current);
            state
                .members
                .get_mut(&id)
                .map(|member| (Arc::clone(&member.server), member.epoch, member.forget_unused(keep, &current.name)))
        };
        let Some((server, epoch, mut names)) = found else { return Vec::new() };
        for done in 0..names.len() {
            if let Err(failure) = server.unload(&names[done]).await {
                let left = names.split_off(done);
                if let Some(member) = self.state().members.get_mut(&id) {
                    member.put_back(left);
                }
                self.failed(id, epoch, None, &failure);
                break;
            }
        }
        names
    }

    /// Forgets those of these policies that no server has any more.
    pub(super) async fn retire(&self, names: impl Iterator<Item = Arc<str>>) {
        let mut names: BTreeSet<_> = names.collect();
        {
            let state = self.state();
            let has = |name: &str| state.members.values().any(|member| member.has(name));
            names.retain(|name| *name != state.current.name && !has(name));
        }
        join_all(names.iter().map(|name| self.connect.retire(name))).await;
    }

    /// Unloads all of this run's policies from servers that are left alone from now on.
    pub(super) async fn unload_all(&self, servers: Vec<Holding<C::Server>>) {
        let unloads = servers.iter().map(async |(server, names)| {
            for name in names {
                if let Err(failure) = server.unload(name).await {
                    tracing::debug!(url = %server.url(), "could not unload {name}: {failure}");
                    return;
                }
            }
        });
        join_all(unloads).await;
    }
}

/// Loads a policy, and makes sure that the server has it.
async fn load<S: Server>(server: &S, policy: &Policy) -> Result<(), Failure> {
    load_and_list(server, policy).await.map(|_| ())
}

/// As [`load`], and tells the names of all adapters there.
pub(super) async fn load_and_list<S: Server>(server: &S, policy: &Policy) -> Result<Vec<String>, Failure> {
    server.load(&policy.name, &policy.adapter).await?;
    let names = server.adapters().await?;
    if names.iter().any(|name| **name == *policy.name) {
        return Ok(names);
    }
    let problem = format!("it does not list adapter {} after loading it", policy.name);
    Err(Failure::new(FailureKind::Broken, problem))
}
