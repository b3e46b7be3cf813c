//! Measures for how long at least one request was running.
//!
//! By tokio's clock, which tests can pause.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Default)]
pub struct BusyClock {
    state: Mutex<Busy>,
}

#[derive(Default)]
struct Busy {
    running: usize,
    since: Option<Instant>,
    total: Duration,
}

/// Counts as a running request until it is dropped.
pub struct BusyGuard<'a>(&'a BusyClock);

impl BusyClock {
    pub fn enter(&self) -> BusyGuard<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.running == 0 {
            state.since = Some(Instant::now());
        }
        state.running += 1;
        BusyGuard(self)
    }

    /// Busy time since the last call.
    pub fn take(&self) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(since) = state.since.replace(now).filter(|_| state.running > 0) {
            state.total += now - since;
        }
        std::mem::take(&mut state.total)
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        if state.running == 0 {
            let busy = state.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            state.total += busy;
        }
    }
}
