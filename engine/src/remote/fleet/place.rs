//! Guards: a place on a server, and a group that runs there. Dropping them frees what they hold.

use std::mem;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::placing::{Ask, Denied, Grant, MemberId};
use super::publish::Policy;
use crate::remote::{Answer, Connect, Failure, FailureKind, Server};
use crate::{Completion, PolicyVersion, Request};

/// Room for a group on a server, or a turn in the queue for it.
pub(super) struct Place<C: Connect> {
    shared: Arc<Shared<C>>,
    ask: Ask,
    hold: Hold,
}

enum Hold {
    Waiting { ticket: u64, granted: oneshot::Receiver<Grant> },
    At(MemberId),
    Nothing,
}

impl<C: Connect> Place<C> {
    /// Waits for a place.
    pub(super) async fn find(shared: &Arc<Shared<C>>, ask: Ask) -> Result<Self, Denied> {
        let (ticket, granted) = shared.state().placing.ask(ask, Instant::now());
        let mut place = Self { shared: Arc::clone(shared), ask, hold: Hold::Waiting { ticket, granted } };
        let Hold::Waiting { granted, .. } = &mut place.hold else { return Err(Denied::Closed) };
        // The queue answers everybody before it goes.
        let grant = granted.await.unwrap_or(Err(Denied::Closed));
        place.hold = grant.map_or(Hold::Nothing, Hold::At);
        grant.map(|_| place)
    }

    /// A place that was taken already.
    fn taken(shared: &Arc<Shared<C>>, ask: Ask, id: MemberId) -> Self {
        Self { shared: Arc::clone(shared), ask, hold: Hold::At(id) }
    }
}

impl<C: Connect> Drop for Place<C> {
    fn drop(&mut self) {
        match mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Nothing => {}
            Hold::At(id) => self.shared.state().placing.release(id, &self.ask),
            Hold::Waiting { ticket, mut granted } => {
                let mut state = self.shared.state();
                // Not in the queue: the place was granted, but nobody looked.
                if !state.placing.give_up(ticket)
                    && let Ok(Ok(id)) = granted.try_recv()
                {
                    state.placing.release(id, &self.ask);
                }
            }
        }
    }
}

/// A group on a server, under one policy.
pub(super) struct Run<C: Connect> {
    place: Place<C>,
    pub(super) id: MemberId,
    pub(super) server: Arc<C::Server>,
    pub(super) policy: Arc<Policy>,
    pub(super) started: Instant,
    epoch: u64,
}

impl<C: Connect> Run<C> {
    /// Under the current policy; `None` if the server was taken out since the place was granted.
    pub(super) fn begin(place: Place<C>) -> Option<Self> {
        let Hold::At(id) = place.hold else { return None };
        let shared = Arc::clone(&place.shared);
        let mut state = shared.state();
        let policy = Arc::clone(&state.current);
        let member = state.members.get_mut(&id).filter(|member| member.is_up());
        let Some(member) = member else {
            // The place must not be freed under the lock.
            drop(state);
            return None;
        };
        member.started(&policy.name);
        let (server, epoch) = (Arc::clone(&member.server), member.epoch);
        drop(state);
        Some(Self { place, id, server, policy, started: Instant::now(), epoch })
    }

    /// The same group on a second server, if one has nothing else to do.
    pub(super) fn second(&self) -> Option<Self> {
        let Place { shared, ask, .. } = &self.place;
        let mut state = shared.state();
        let id = state.take_second(self.id, &self.policy.name, ask)?;
        let member = state.members.get_mut(&id)?;
        member.started(&self.policy.name);
        let (server, epoch) = (Arc::clone(&member.server), member.epoch);
        drop(state);
        let place = Place::taken(shared, *ask, id);
        Some(Self { place, id, server, policy: Arc::clone(&self.policy), started: Instant::now(), epoch })
    }

    /// Sends the group, and notes how that went.
    pub(super) async fn answer(&self, request: &Request) -> Result<Vec<Completion>, Failure> {
        let shared = &self.place.shared;
        let answers = self.server.generate(&self.policy.name, request).await;
        match answers.and_then(|answers| self.completions(answers, request.group_size)) {
            Ok(completions) => {
                shared.succeeded(self.id, self.started.elapsed());
                Ok(completions)
            }
            Err(failure) => {
                shared.failed(self.id, self.epoch, Some(&self.policy.name), &failure);
                Err(failure)
            }
        }
    }

    fn completions(&self, answers: Vec<Answer>, group_size: usize) -> Result<Vec<Completion>, Failure> {
        if answers.len() != group_size {
            let problem = format!("{} completions instead of {group_size}", answers.len());
            return Err(Failure::new(FailureKind::Broken, problem));
        }
        Ok(answers.into_iter().map(|answer| completion(answer, &self.policy.version, self.server.url())).collect())
    }
}

impl<C: Connect> Drop for Run<C> {
    fn drop(&mut self) {
        if let Some(member) = self.place.shared.state().members.get_mut(&self.id) {
            member.ended(&self.policy.name);
        }
    }
}

fn completion(answer: Answer, policy: &PolicyVersion, url: &Arc<str>) -> Completion {
    Completion {
        tokens: answer.tokens,
        log_probs: answer.log_probs,
        full_log_probs: answer.full_log_probs,
        finish: answer.finish,
        policy: policy.clone(),
        last_policy: policy.clone(),
        endpoint: Some(Arc::clone(url)),
    }
}
