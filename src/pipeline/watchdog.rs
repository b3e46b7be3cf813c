//! Notices a pipeline in which no stage moves, and names the one that the others wait for.
//!
//! It has its own thread and a real clock, so that a stage that blocks the runtime is noticed too.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::oneshot;

use super::activity::Activity;
use crate::config::pipeline::PipelineConfig;

/// Watches until it is dropped.
pub struct Watchdog {
    /// What [`Watchdog::barks`] waits for.
    stalled: Option<oneshot::Receiver<String>>,
    _running: mpsc::Sender<()>,
}

/// Decides what is done about a pipeline that stands still. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alarm {
    /// After how long a first warning comes. `None`: never.
    first: Option<Duration>,
    /// After how long the next one comes.
    next: Option<Duration>,
    /// After how long the run ends. `None`: never.
    end: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Warn,
    End,
}

impl Alarm {
    fn new(config: &PipelineConfig) -> Self {
        let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        let (first, end) = (seconds(config.stall_warning_s), seconds(config.stall_timeout_s));
        Self { first, next: first, end }
    }

    /// Nothing has moved for `still`. Each warning comes after twice as long as the one before; a move begins anew.
    fn look(&mut self, still: Duration) -> Verdict {
        if self.end.is_some_and(|end| still >= end) {
            return Verdict::End;
        }
        if self.first.is_some_and(|first| still < first) {
            self.next = self.first;
        }
        match self.next {
            Some(after) if still >= after => {
                while self.next.is_some_and(|next| next <= still) {
                    self.next = self.next.and_then(|next| next.checked_mul(2));
                }
                Verdict::Warn
            }
            _ => Verdict::Fine,
        }
    }

    /// How long nothing happens that concerns it. `None`: for ever.
    fn sleeps(&self, still: Duration) -> Option<Duration> {
        let next = [self.next, self.end].into_iter().flatten().min()?;
        Some(next.saturating_sub(still))
    }
}

impl Watchdog {
    /// # Errors
    /// If no thread can be started.
    pub fn start(activity: Arc<Activity>, config: &PipelineConfig) -> std::io::Result<Self> {
        let alarm = Alarm::new(config);
        let ((tell, stalled), (running, dropped)) = (oneshot::channel(), mpsc::channel());
        if alarm.sleeps(Duration::ZERO).is_some() {
            let watch = move || watch(&activity, alarm, &dropped, tell);
            std::thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        }
        Ok(Self { stalled: Some(stalled), _running: running })
    }

    /// Waits until nothing has moved for too long; for ever, if that does not happen.
    ///
    /// # Errors
    /// The stage that the others wait for.
    pub fn barks(&mut self) -> impl Future<Output = Result<()>> + Send + 'static {
        let stalled = self.stalled.take();
        async move {
            if let Some(stalled) = stalled
                && let Ok(still) = stalled.await
            {
                bail!(
                    "{still}. The run ends here, and --resume goes on from its last checkpoint. If this is only slow, raise \
                     pipeline.stall_timeout_s"
                );
            }
            std::future::pending().await
        }
    }
}

/// Warns, and tells when the run must end.
fn watch(activity: &Activity, mut alarm: Alarm, dropped: &mpsc::Receiver<()>, tell: oneshot::Sender<String>) {
    loop {
        let still = activity.still();
        match alarm.look(still.time) {
            Verdict::Fine => {}
            Verdict::Warn => tracing::warn!("{still}"),
            Verdict::End => {
                drop(tell.send(still.to_string()));
                return;
            }
        }
        let Some(time) = alarm.sleeps(still.time) else { return };
        match dropped.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said at these looks, each so many seconds after the latest move.
    fn check([warning, end]: [u64; 2], looks: &[(u64, Verdict)]) {
        let config = PipelineConfig { stall_warning_s: warning, stall_timeout_s: end, ..PipelineConfig::default() };
        let mut alarm = Alarm::new(&config);
        for (seconds, expected) in looks {
            assert_eq!(alarm.look(Duration::from_secs(*seconds)), *expected, "{seconds} s in {looks:?}");
        }
    }

    #[test]
    fn warnings_come_after_twice_as_long_each_time_and_then_the_end() {
        use Verdict::{End, Fine, Warn};
        check(
            [600, 7200],
            &[
                (0, Fine),
                (599, Fine),
                (600, Warn),
                (1199, Fine),
                (1200, Warn),
                (2399, Fine),
                (2400, Warn),
                (4800, Warn),
            ],
        );
        check([600, 7200], &[(600, Warn), (7199, Warn), (7200, End)]);
        // A look that comes late gives one warning, not three.
        check([600, 0], &[(3000, Warn), (3001, Fine), (4799, Fine), (4800, Warn), (1_000_000, Warn)]);
        check([0, 7200], &[(600, Fine), (7199, Fine), (7200, End)]);
        check([0, 0], &[(1_000_000, Fine)]);
    }

    #[test]
    fn a_move_begins_anew() {
        use Verdict::{Fine, Warn};
        check(
            [600, 7200],
            &[(600, Warn), (1200, Warn), (0, Fine), (599, Fine), (600, Warn), (1199, Fine), (1200, Warn)],
        );
    }

    /// Every stage needs just less than the time of a warning, again and again.
    #[test]
    fn what_is_slow_but_moves_is_not_told() {
        let looks: Vec<_> = (0..100).map(|look| (if look % 2 == 0 { 0 } else { 599 }, Verdict::Fine)).collect();
        check([600, 7200], &looks);
    }

    #[test]
    fn it_sleeps_until_something_can_be_told() {
        let check = |[warning, end]: [u64; 2], still: u64, expected: Option<u64>| {
            let config = PipelineConfig { stall_warning_s: warning, stall_timeout_s: end, ..PipelineConfig::default() };
            let mut alarm = Alarm::new(&config);
            alarm.look(Duration::from_secs(still));
            assert_eq!(alarm.sleeps(Duration::from_secs(still)), expected.map(Duration::from_secs));
        };
        check([600, 7200], 0, Some(600));
        check([600, 7200], 100, Some(500));
        check([600, 7200], 600, Some(600));
        check([600, 1000], 600, Some(400));
        check([0, 7200], 0, Some(7200));
        check([0, 0], 0, None);
    }
}
