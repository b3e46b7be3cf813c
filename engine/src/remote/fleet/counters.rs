//! What the fleet counts, by the names that metrics use.
//!
//! | name | what |
//! |---|---|
//! | `unreachable`, `timed_out`, `busy`, `no_such_policy`, `broken`, `refused`, `unfit` | failures of servers by kind |
//! | `retries` | groups sent again after a failure |
//! | `hedges` | groups sent to a second server because the first was slow |
//! | `hedges_won` | of these, those that the second server answered first |
//! | `taken_out` | times a server was taken out of use |
//! | `servers`, `servers_up` | servers known, and those in use now |
//! | `waiting` | groups that wait for room now |

use std::sync::atomic::{AtomicU64, Ordering};

use crate::remote::FailureKind;

#[derive(Default)]
pub(super) struct Counters {
    failures: [AtomicU64; FailureKind::ALL.len()],
    events: [AtomicU64; Event::ALL.len()],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Retry,
    Hedge,
    HedgeWon,
    TakenOut,
}

impl Event {
    const ALL: [Self; 4] = [Self::Retry, Self::Hedge, Self::HedgeWon, Self::TakenOut];

    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retries",
            Self::Hedge => "hedges",
            Self::HedgeWon => "hedges_won",
            Self::TakenOut => "taken_out",
        }
    }
}

/// What is so now.
pub(super) struct Gauges {
    pub(super) servers: usize,
    pub(super) servers_up: usize,
    pub(super) waiting: usize,
}

impl Counters {
    pub(super) fn failed(&self, kind: FailureKind) {
        self.failures[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all(&self, now: Gauges) -> Vec<(&'static str, u64)> {
        let failures = FailureKind::ALL.map(|kind| (metric(kind), &self.failures[kind as usize]));
        let events = Event::ALL.map(|event| (event.name(), &self.events[event as usize]));
        let counted = failures.into_iter().chain(events).map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let gauges = [("servers", now.servers), ("servers_up", now.servers_up), ("waiting", now.waiting)];
        counted.chain(gauges.map(|(name, value)| (name, value as u64))).collect()
    }
}

fn metric(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unreachable => "unreachable",
        FailureKind::TimedOut => "timed_out",
        FailureKind::Busy => "busy",
        FailureKind::NoSuchPolicy => "no_such_policy",
        FailureKind::Broken => "broken",
        FailureKind::Refused => "refused",
        FailureKind::Unfit => "unfit",
    }
}
