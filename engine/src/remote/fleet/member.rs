//! One server's state: whether it is in use, how it failed, and which policies it has loaded. Pure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::remote::{Failure, FailureKind, Server};

/// So many failures in a row take a server out.
const FAILURES: u32 = 3;
const FIRST_CHECK: Duration = Duration::from_secs(1);
const LONGEST_CHECK: Duration = Duration::from_secs(60);
/// A server that had no success for so long is asked for its health.
const SILENCE: Duration = Duration::from_secs(10);

pub(super) struct Member<S> {
    pub(super) server: Arc<S>,
    /// Whether it belongs to the endpoints file, which can take it away.
    pub(super) from_file: bool,
    pub(super) standing: Standing,
    /// Counts how often it was taken in. Failures of requests from before say nothing about it.
    pub(super) epoch: u64,
    pub(super) keeps_seeds: bool,
    /// The oldest first.
    loaded: Vec<Loaded>,
    /// The last success, or when its health was last asked for.
    last_sign: Instant,
    pub(super) last_failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Up {
        failures: u32,
    },
    Out {
        tries: u32,
        check_at: Instant,
    },
    Checking {
        tries: u32,
    },
    /// It is no longer in the endpoints file, and is forgotten when its last group ends.
    Leaving,
}

/// A policy on a server.
struct Loaded {
    name: Arc<str>,
    /// Groups that run under it there.
    running: usize,
}

impl<S: Server> Member<S> {
    pub(super) fn new(server: S, from_file: bool, now: Instant) -> Self {
        Self {
            server: Arc::new(server),
            from_file,
            standing: Standing::Out { tries: 0, check_at: now },
            epoch: 0,
            keeps_seeds: false,
            loaded: Vec::new(),
            last_sign: now,
            last_failure: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up { .. })
    }

    pub(super) fn take_in(&mut self, keeps_seeds: bool, now: Instant) {
        self.standing = Standing::Up { failures: 0 };
        self.keeps_seeds = keeps_seeds;
        self.epoch += 1;
        self.last_sign = now;
    }

    /// Not in use, until a check finds that it serves again. `jitter` is from 0 to 1.
    pub(super) fn take_out(&mut self, failure: Failure, now: Instant, jitter: f64) {
        self.standing = Standing::Out { tries: 0, check_at: now + pause(failure.kind, 0, jitter) };
        self.last_failure = Some(failure);
    }

    /// A check found that it does not serve yet.
    pub(super) fn still_out(&mut self, failure: Failure, now: Instant, jitter: f64) {
        if let Standing::Checking { tries } = self.standing {
            self.standing = Standing::Out { tries: tries + 1, check_at: now + pause(failure.kind, tries + 1, jitter) };
            self.last_failure = Some(failure);
        }
    }

    /// Whether to check now if it serves again; if so, the check counts as begun.
    pub(super) fn begin_check(&mut self, now: Instant) -> bool {
        match self.standing {
            Standing::Out { tries, check_at } if check_at <= now => {
                self.standing = Standing::Checking { tries };
                true
            }
            _ => false,
        }
    }

    /// Whether to ask for its health now; if so, that counts as done.
    pub(super) fn begin_ping(&mut self, now: Instant) -> bool {
        let due = self.is_up() && now - self.last_sign >= SILENCE;
        if due {
            self.last_sign = now;
        }
        due
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.last_sign = now;
        if let Standing::Up { failures } = &mut self.standing {
            *failures = 0;
        }
    }

    /// Whether this failure is one too many. `policy` is what the request ran under.
    pub(super) fn failed(&mut self, failure: &Failure, policy: Option<&str>) -> bool {
        self.last_failure = Some(failure.clone());
        let has = policy.is_some_and(|policy| self.has(policy));
        let Standing::Up { failures } = &mut self.standing else { return false };
        match failure.kind {
            FailureKind::Busy | FailureKind::Refused => return false,
            FailureKind::NoSuchPolicy => return has,
            FailureKind::Unfit => return true,
            FailureKind::Unreachable | FailureKind::TimedOut | FailureKind::Broken => *failures += 1,
        }
        *failures >= FAILURES
    }

    pub(super) fn has(&self, policy: &str) -> bool {
        self.loaded.iter().any(|loaded| &*loaded.name == policy)
    }

    pub(super) fn loaded(&mut self, policy: &Arc<str>) {
        if !self.has(policy) {
            self.loaded.push(Loaded { name: Arc::clone(policy), running: 0 });
        }
    }

    /// The server has exactly these, whatever it had before; those that were not known count as the oldest. Returns those
    /// that it lost.
    pub(super) fn has_only(&mut self, names: &[String]) -> Vec<Arc<str>> {
        let lost = self.loaded.extract_if(.., |loaded| !names.iter().any(|name| **name == *loaded.name));
        let lost = lost.map(|loaded| loaded.name).collect();
        let unknown: Vec<_> =
            names.iter().filter(|name| !self.has(name)).map(|name| Arc::from(name.as_str())).collect();
        self.put_back(unknown);
        lost
    }

    /// These could not be unloaded, or nobody knew of them: they are the next to be unloaded.
    pub(super) fn put_back(&mut self, names: Vec<Arc<str>>) {
        self.loaded.splice(0..0, names.into_iter().map(|name| Loaded { name, running: 0 }));
    }

    pub(super) fn started(&mut self, policy: &str) {
        if let Some(loaded) = self.loaded.iter_mut().find(|loaded| &*loaded.name == policy) {
            loaded.running += 1;
        }
    }

    pub(super) fn ended(&mut self, policy: &str) {
        // It may have been lost and loaded again in between.
        if let Some(loaded) = self.loaded.iter_mut().find(|loaded| &*loaded.name == policy) {
            loaded.running = loaded.running.saturating_sub(1);
        }
    }

    /// Removes the oldest unused policies except `current`, until `keep` are left, and returns them.
    pub(super) fn forget_unused(&mut self, keep: usize, current: &str) -> Vec<Arc<str>> {
        let mut forgotten = Vec::new();
        while self.loaded.len() > keep {
            let unused = self.loaded.iter().position(|loaded| loaded.running == 0 && &*loaded.name != current);
            let Some(at) = unused else { break };
            forgotten.push(self.loaded.remove(at).name);
        }
        forgotten
    }

    pub(super) fn forget_all(&mut self) -> Vec<Arc<str>> {
        self.loaded.drain(..).map(|loaded| loaded.name).collect()
    }
}

/// How long after a failed check, or after being taken out, the next check comes: 1, 2, 4 … 60 s, up to a quarter
/// sooner or later, so that many clients do not all come at once.
fn pause(kind: FailureKind, tries: u32, jitter: f64) -> Duration {
    let doubled = FIRST_CHECK.saturating_mul(2u32.saturating_pow(tries)).min(LONGEST_CHECK);
    let pause = if kind == FailureKind::Unfit { LONGEST_CHECK } else { doubled };
    pause.mul_f64(0.75 + 0.5 * jitter)
}
