//! The scheduler as the stages share it, and what wakes the dispatcher.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::activity::Activity;
use super::busy_clock::BusyClock;
use crate::scheduler::Scheduler;

/// A scheduler behind a lock that is never held across an await.
pub struct SharedScheduler {
    scheduler: Mutex<Scheduler>,
    wake: Notify,
    /// Microseconds that the dispatcher has waited for a policy or a group.
    waited_us: AtomicU64,
    /// How long the engine was busy.
    pub engine_clock: BusyClock,
    /// How long graders that are not built in were busy.
    pub grading_clock: BusyClock,
    /// What the stages do now.
    pub activity: Arc<Activity>,
}

impl SharedScheduler {
    pub fn new(scheduler: Scheduler) -> Self {
        let (scheduler, wake, waited_us) = (Mutex::new(scheduler), Notify::new(), AtomicU64::new(0));
        let (engine_clock, grading_clock) = (BusyClock::default(), BusyClock::default());
        Self { scheduler, wake, waited_us, engine_clock, grading_clock, activity: Arc::default() }
    }

    /// The scheduler. The guard must not live across an await.
    pub fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the scheduler, then wakes the dispatcher.
    pub fn change<T>(&self, f: impl FnOnce(&mut Scheduler) -> T) -> T {
        let result = f(&mut self.lock());
        self.wake();
        result
    }

    /// Lets the dispatcher ask the scheduler again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns at the next change. A change since the last call counts.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    pub(super) fn add_waited(&self, time: Duration) {
        self.waited_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// Seconds that the dispatcher has waited since the last call.
    pub fn take_waited(&self) -> f64 {
        self.waited_us.swap(0, Ordering::Relaxed) as f64 / 1e6
    }
}
