//! Which server gets a group: pure, with the clock as an argument.
//!
//! A group goes whole to the server with the least outstanding tokens per capacity. Groups without room wait in the order
//! in which they came. Invariant: nobody waits who could be placed, which [`Placing::settle`] restores after each event.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub(super) type MemberId = u64;

/// How long a group waits while no server is up.
pub(super) const LONGEST_OUTAGE: Duration = Duration::from_secs(600);

/// Where a group may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Anywhere,
    /// Not to this server, while another is up: it just failed.
    Not(MemberId),
    Only(MemberId),
}

/// What a group needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) sequences: usize,
    /// At most, prompt included.
    pub(super) tokens: u64,
    pub(super) wish: Wish,
}

/// Why a group got no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// No server was up for [`LONGEST_OUTAGE`].
    NoneUp,
    /// The only server that it may go to is not up.
    Gone,
    Closed,
}

pub(super) type Grant = Result<MemberId, Denied>;

struct Seat {
    id: MemberId,
    capacity: usize,
    up: bool,
    sequences: usize,
    tokens: u64,
}

impl Seat {
    /// A group larger than the server runs alone.
    fn fits(&self, ask: &Ask) -> bool {
        self.up && (self.sequences == 0 || self.sequences + ask.sequences <= self.capacity)
    }

    fn has_less_to_do(&self, other: &Seat) -> bool {
        u128::from(self.tokens) * (other.capacity as u128) < u128::from(other.tokens) * (self.capacity as u128)
    }

    fn take(&mut self, ask: &Ask) {
        self.sequences += ask.sequences;
        self.tokens += ask.tokens;
    }
}

struct Waiter {
    ask: Ask,
    since: Instant,
    grant: oneshot::Sender<Grant>,
}

/// What one look at the servers says about a waiting group.
enum Found {
    Seat(usize),
    /// The server has no room; nobody may overtake on it.
    Reserve(MemberId),
    /// Only the server that the group avoids has room.
    Passes,
    Full,
}

pub(super) struct Placing {
    /// In the order of their ids.
    seats: Vec<Seat>,
    /// By ticket: the oldest first.
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    none_up_since: Option<Instant>,
    closed: bool,
}

impl Placing {
    pub(super) fn new(now: Instant) -> Self {
        Self { seats: Vec::new(), waiters: BTreeMap::new(), next_ticket: 0, none_up_since: Some(now), closed: false }
    }

    /// A new server, not yet up; ids ascend.
    pub(super) fn add(&mut self, id: MemberId, capacity: usize) {
        debug_assert!(self.seats.last().is_none_or(|last| last.id < id));
        self.seats.push(Seat { id, capacity: capacity.max(1), up: false, sequences: 0, tokens: 0 });
    }

    pub(super) fn remove(&mut self, id: MemberId) {
        self.seats.retain(|seat| seat.id != id);
    }

    pub(super) fn open(&mut self, id: MemberId) {
        if let Some(seat) = self.seat(id) {
            seat.up = true;
            self.none_up_since = None;
        }
        self.settle();
    }

    /// No more groups for this server; those that run there go on.
    pub(super) fn shut(&mut self, id: MemberId, now: Instant) {
        if let Some(seat) = self.seat(id) {
            seat.up = false;
        }
        if self.up() == 0 {
            self.none_up_since.get_or_insert(now);
        }
        self.deny(Denied::Gone, |waiter| waiter.ask.wish == Wish::Only(id));
        self.settle();
    }

    /// From now on nobody gets a server.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.deny(Denied::Closed, |_| true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Queues a group, and tells its ticket and where the answer will come.
    pub(super) fn ask(&mut self, ask: Ask, now: Instant) -> (u64, oneshot::Receiver<Grant>) {
        let (grant, granted) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        match self.denied(&ask) {
            // Whoever holds the receiver has not gone yet.
            Some(denied) => {
                grant.send(Err(denied)).ok();
            }
            None => {
                self.waiters.insert(ticket, Waiter { ask, since: now, grant });
            }
        }
        self.settle();
        (ticket, granted)
    }

    fn denied(&self, ask: &Ask) -> Option<Denied> {
        match ask.wish {
            _ if self.closed => Some(Denied::Closed),
            Wish::Only(id) if !self.seats.iter().any(|seat| seat.id == id && seat.up) => Some(Denied::Gone),
            _ => None,
        }
    }

    /// Takes a group out of the queue; false: it waits no longer.
    pub(super) fn give_up(&mut self, ticket: u64) -> bool {
        let waited = self.waiters.remove(&ticket).is_some();
        self.settle();
        waited
    }

    pub(super) fn release(&mut self, id: MemberId, ask: &Ask) {
        if let Some(seat) = self.seat(id) {
            seat.sequences -= ask.sequences;
            seat.tokens -= ask.tokens;
        }
        self.settle();
    }

    /// Another server without any work, for a group that nobody waits behind.
    pub(super) fn take_idle(&mut self, ask: &Ask, may: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        if !self.waiters.is_empty() || self.closed {
            return None;
        }
        let seat = self.seats.iter_mut().find(|seat| seat.up && seat.sequences == 0 && may(seat.id))?;
        seat.take(ask);
        Some(seat.id)
    }

    /// Denies those that have waited too long without any server.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(since) = self.none_up_since {
            self.deny(Denied::NoneUp, |waiter| now - waiter.since.max(since) >= LONGEST_OUTAGE);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn up(&self) -> usize {
        self.seats.iter().filter(|seat| seat.up).count()
    }

    pub(super) fn is_idle(&self, id: MemberId) -> bool {
        self.seats.iter().all(|seat| seat.id != id || seat.sequences == 0)
    }

    fn deny(&mut self, denied: Denied, whom: impl Fn(&Waiter) -> bool) {
        let tickets: Vec<u64> = self.waiters.iter().filter(|(_, waiter)| whom(waiter)).map(|(at, _)| *at).collect();
        for ticket in tickets {
            if let Some(waiter) = self.waiters.remove(&ticket) {
                waiter.grant.send(Err(denied)).ok();
            }
        }
    }

    fn seat(&mut self, id: MemberId) -> Option<&mut Seat> {
        let at = self.seats.binary_search_by_key(&id, |seat| seat.id).ok()?;
        self.seats.get_mut(at)
    }

    /// Places those who can be placed, the oldest first. Nobody overtakes a group that lacks room, so that large ones are
    /// not starved; who only waits for another server than the free one lets others pass.
    fn settle(&mut self) {
        if self.none_up_since.is_some() {
            return;
        }
        let mut reserved = Vec::new();
        let mut from = 0;
        while let Some((&ticket, waiter)) = self.waiters.range(from..).next() {
            from = ticket + 1;
            match self.find(&waiter.ask, &reserved) {
                Found::Seat(at) => self.grant(ticket, at),
                Found::Reserve(id) => reserved.push(id),
                Found::Passes => {}
                Found::Full => return,
            }
        }
    }

    fn grant(&mut self, ticket: u64, at: usize) {
        let (Some(waiter), Some(seat)) = (self.waiters.remove(&ticket), self.seats.get_mut(at)) else { return };
        // A waiter leaves the queue before its receiver goes, so that this arrives.
        if waiter.grant.send(Ok(seat.id)).is_ok() {
            seat.take(&waiter.ask);
        }
    }

    fn find(&self, ask: &Ask, reserved: &[MemberId]) -> Found {
        if let Wish::Only(id) = ask.wish {
            let at = self.seats.iter().position(|seat| seat.id == id && seat.fits(ask) && !reserved.contains(&id));
            return at.map_or(Found::Reserve(id), Found::Seat);
        }
        let mut best: Option<usize> = None;
        let mut avoided = None;
        let mut others_up = false;
        for (at, seat) in self.seats.iter().enumerate() {
            let avoids = ask.wish == Wish::Not(seat.id);
            others_up |= seat.up && !avoids;
            if !seat.fits(ask) || reserved.contains(&seat.id) {
                continue;
            }
            if avoids {
                avoided = Some(at);
            } else if best.is_none_or(|best| seat.has_less_to_do(&self.seats[best])) {
                best = Some(at);
            }
        }
        match (best, avoided) {
            (Some(at), _) => Found::Seat(at),
            (None, Some(at)) if !others_up => Found::Seat(at),
            (None, Some(_)) => Found::Passes,
            (None, None) => Found::Full,
        }
    }
}
