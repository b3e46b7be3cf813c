//! The engine's thread, and the commands that it takes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batching::{ContinuousBatcher, LivePolicy, Submission};
use super::compute::Compute;
use crate::{EngineError, PolicyVersion};

/// What a caller sends to the thread.
pub enum EngineCommand {
    Generate(Submission),
    Publish(LivePolicy, Published),
    Suspend(oneshot::Sender<()>),
}

/// Answers a publish.
pub type Published = oneshot::Sender<Result<PolicyVersion, EngineError>>;

/// How many steps there were, and how long each of the last ones took.
#[derive(Default)]
pub struct StepTimeLog {
    count: AtomicU64,
    /// Newest first.
    times: Mutex<VecDeque<Duration>>,
}

/// The number of step times that are kept.
const STEP_TIMES: usize = 4096;

impl StepTimeLog {
    fn push(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.truncate(STEP_TIMES - 1);
        times.push_front(time);
    }

    /// Removes and returns all of them, oldest first.
    pub fn take(&self) -> Vec<Duration> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *times).into_iter().rev().collect()
    }

    /// Steps since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Runs on the thread: takes commands between steps, and sleeps when there is nothing to do. If a caller goes away, its
/// command still takes effect.
pub fn serve<C: Compute>(
    mut batcher: ContinuousBatcher<C>,
    commands: &mpsc::Receiver<EngineCommand>,
    times: &StepTimeLog,
) {
    loop {
        let command =
            if batcher.is_idle() { commands.recv().map_err(mpsc::TryRecvError::from) } else { commands.try_recv() };
        match command {
            Ok(EngineCommand::Generate(submission)) => batcher.submit(submission),
            Ok(EngineCommand::Publish(policy, reply)) => {
                let _ = reply.send(Ok(batcher.publish(policy)));
            }
            Ok(EngineCommand::Suspend(reply)) => {
                batcher.suspend();
                let _ = reply.send(());
                if wait_for_policy(&mut batcher, commands).is_none() {
                    return;
                }
            }
            Err(mpsc::TryRecvError::Empty) => {
                let since = Instant::now();
                batcher.step();
                times.push(since.elapsed());
            }
            Err(mpsc::TryRecvError::Disconnected) => return,
        }
    }
}

/// Keeps requests waiting while the batcher is suspended, until a policy is published and there is room for it. `None`
/// if all callers have gone.
fn wait_for_policy<C: Compute>(
    batcher: &mut ContinuousBatcher<C>,
    commands: &mpsc::Receiver<EngineCommand>,
) -> Option<()> {
    let mut waiting = Vec::new();
    loop {
        match commands.recv().ok()? {
            EngineCommand::Generate(submission) => waiting.push(submission),
            EngineCommand::Suspend(reply) => drop(reply.send(())),
            EngineCommand::Publish(policy, reply) => match batcher.resume() {
                Ok(()) => {
                    let _ = reply.send(Ok(batcher.publish(policy)));
                    break;
                }
                Err(error) => drop(reply.send(Err(error.into()))),
            },
        }
    }
    waiting.into_iter().for_each(|submission| batcher.submit(submission));
    Some(())
}
