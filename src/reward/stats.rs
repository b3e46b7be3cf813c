//! What is counted of graders that are not built in.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts since the start of the program.
#[derive(Debug, Default)]
pub struct GraderStats {
    /// Processes that were started in place of one that ended.
    pub restarts: AtomicU64,
    pub timeouts: AtomicU64,
    /// Completions that could not be graded.
    pub failures: AtomicU64,
    slowest_us: AtomicU64,
}

impl GraderStats {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn took(&self, time: Duration) {
        self.slowest_us.fetch_max(time.as_micros() as u64, Relaxed);
    }

    /// Seconds of the slowest group since the last call.
    pub fn take_slowest(&self) -> f64 {
        self.slowest_us.swap(0, Relaxed) as f64 / 1e6
    }
}
