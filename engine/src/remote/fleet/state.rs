//! Everything that changes in a fleet, behind one lock that is never held across an await.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::member::{Member, Standing};
use super::placing::{Ask, MemberId, Placing};
use super::publish::Policy;
use crate::remote::{Failure, Server};

pub(super) struct State<S> {
    pub(super) placing: Placing,
    pub(super) members: BTreeMap<MemberId, Member<S>>,
    pub(super) current: Arc<Policy>,
    pub(super) durations: Durations,
    next_id: MemberId,
}

impl<S: Server> State<S> {
    pub(super) fn new(current: Arc<Policy>, now: Instant) -> Self {
        let placing = Placing::new(now);
        Self { placing, members: BTreeMap::new(), current, durations: Durations::default(), next_id: 0 }
    }

    /// A server that is checked next.
    pub(super) fn add(&mut self, server: S, from_file: bool, now: Instant) -> MemberId {
        let id = self.next_id;
        self.next_id += 1;
        self.placing.add(id, server.max_sequences());
        self.members.insert(id, Member::new(server, from_file, now));
        id
    }

    pub(super) fn find(&self, url: &str) -> Option<MemberId> {
        self.members.iter().find(|(_, member)| **member.server.url() == *url).map(|(id, _)| *id)
    }

    pub(super) fn up(&self) -> impl Iterator<Item = (MemberId, &Member<S>)> {
        self.members.iter().filter(|(_, member)| member.is_up()).map(|(id, member)| (*id, member))
    }

    /// Servers in use that are not among `tried`.
    pub(super) fn untried(&self, tried: &BTreeSet<MemberId>) -> Vec<(MemberId, Arc<S>)> {
        let untried = self.up().filter(|(id, _)| !tried.contains(id));
        untried.map(|(id, member)| (id, Arc::clone(&member.server))).collect()
    }

    /// Whether the server was in use until now.
    pub(super) fn take_out(&mut self, id: MemberId, failure: &Failure, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.is_up()) else { return false };
        member.take_out(failure.clone(), now, rand::random());
        tracing::warn!(url = %member.server.url(), "server taken out: {failure}");
        self.placing.shut(id, now);
        true
    }

    /// Puts a server to use that was checked.
    pub(super) fn take_in(&mut self, id: MemberId, keeps_seeds: bool, now: Instant) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if matches!(member.standing, Standing::Checking { .. }) {
            member.take_in(keeps_seeds, now);
            self.placing.open(id);
        }
    }

    /// Sends no more groups to a server that is no longer in the endpoints file.
    pub(super) fn leave(&mut self, id: MemberId, now: Instant) {
        if let Some(member) = self.members.get_mut(&id) {
            member.standing = Standing::Leaving;
            self.placing.shut(id, now);
        }
    }

    /// Removes the servers that are to leave and have nothing left to do.
    pub(super) fn drained(&mut self) -> Vec<Member<S>> {
        let leaves =
            |id: &MemberId, member: &Member<S>| member.standing == Standing::Leaving && self.placing.is_idle(*id);
        let ids: Vec<_> = self.members.iter().filter(|(id, member)| leaves(id, member)).map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| self.placing.remove(*id));
        ids.iter().filter_map(|id| self.members.remove(id)).collect()
    }

    /// Another server for a group that is slow at `slow`: one without work, if every server gives the same tokens for
    /// the same seed.
    pub(super) fn take_second(&mut self, slow: MemberId, policy: &str, ask: &Ask) -> Option<MemberId> {
        let Self { placing, members, .. } = self;
        if !members.values().filter(|member| member.is_up()).all(|member| member.keeps_seeds) {
            return None;
        }
        placing.take_idle(ask, |id| id != slow && members.get(&id).is_some_and(|member| member.has(policy)))
    }

    /// The last failures of the servers that are not in use, in words.
    pub(super) fn failures(&self) -> String {
        const NAMED: usize = 5;
        let down = self.members.values().filter(|member| !member.is_up());
        let failed = down.filter_map(|member| Some((member.server.url(), member.last_failure.as_ref()?)));
        let named: Vec<_> = failed.take(NAMED).map(|(url, failure)| format!("{url}: {failure}")).collect();
        named.join("; ")
    }
}

/// How long the last groups took.
#[derive(Default)]
pub(super) struct Durations {
    last: VecDeque<Duration>,
    /// Since `slow` was computed.
    new: usize,
    slow: Option<Duration>,
}

impl Durations {
    const KEPT: usize = 256;
    const NEEDED: usize = 20;
    /// The percentile is computed anew after so many.
    const STRIDE: usize = 16;

    pub(super) fn push(&mut self, duration: Duration) {
        self.last.push_back(duration);
        if self.last.len() > Self::KEPT {
            self.last.pop_front();
        }
        self.new += 1;
        if self.last.len() == Self::NEEDED || (self.last.len() > Self::NEEDED && self.new >= Self::STRIDE) {
            self.new = 0;
            let mut sorted: Vec<_> = self.last.iter().copied().collect();
            let at = (sorted.len() * 95).div_ceil(100) - 1;
            self.slow = Some(*sorted.select_nth_unstable(at).1 * 2);
        }
    }

    /// Twice the 95th percentile; `None` while there are too few.
    pub(super) fn slow(&self) -> Option<Duration> {
        self.slow
    }
}
