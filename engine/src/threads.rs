//! The end of a thread that computes.

use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long a computation that was given up may take to notice it.
pub const LAST_WORK: Duration = Duration::from_secs(60);

/// Waits until `thread` ends, but no longer than `limit`. Returns whether it has ended. One that hangs inside a computation cannot be
/// ended from outside: it is left behind, and ends with the process.
pub fn join_within(thread: JoinHandle<()>, limit: Duration) -> bool {
    let since = Instant::now();
    while !thread.is_finished() && since.elapsed() < limit {
        sleep(Duration::from_millis(1));
    }
    let has_ended = thread.is_finished();
    if has_ended {
        // Its panic was printed.
        drop(thread.join());
    }
    has_ended
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::spawn;

    use super::*;

    #[test]
    fn a_thread_that_hangs_is_left_behind() {
        let (release, held) = mpsc::channel::<()>();
        let hanging = spawn(move || held.recv().unwrap_or_default());
        let since = Instant::now();
        assert!(!join_within(hanging, Duration::from_millis(20)));
        assert!(since.elapsed() >= Duration::from_millis(20));
        drop(release);
        assert!(join_within(spawn(|| ()), LAST_WORK));
        assert!(join_within(spawn(|| panic!("a panic that this test wants")), LAST_WORK));
    }
}
