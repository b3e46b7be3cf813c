//! A grader outside of this program: its queue, and the thread that runs its workers.
//!
//! The thread has its own async runtime, so a grader works the same for a run, for a command without one, and for tests that
//! pause the clock. It starts at the first completion, and ends with the pool. Then the processes are killed.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use super::command::CommandWorker;
use super::http::HttpWorker;
use super::queue::{Job, Queue};
use super::stats::GraderStats;
use super::{GradingError, process};
use crate::config::grader_spec::{ExternalSpec, Program};
use crate::task::{Grade, Row};

/// See the module.
pub struct Pool {
    pub(super) spec: ExternalSpec,
    label: String,
    queue: Arc<Queue>,
    stats: Arc<GraderStats>,
    thread: Mutex<Option<PoolThread>>,
}

/// Grades that are awaited.
pub(super) struct Submitted {
    since: Instant,
    replies: Vec<oneshot::Receiver<Result<Grade, String>>>,
}

impl Pool {
    /// # Errors
    /// As [`process::check`].
    pub(super) fn new(spec: ExternalSpec, stats: Arc<GraderStats>) -> Result<Self, String> {
        process::check(&spec.program)?;
        let (label, queue) = (process::label(&spec.program), Arc::new(Queue::new(spec.workers)));
        Ok(Self { spec, label, queue, stats, thread: Mutex::new(None) })
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn submit(&self, row: &Row, completions: &[String]) -> Submitted {
        let mut replies = Vec::with_capacity(completions.len());
        let row = Arc::new(row.clone());
        let jobs: Vec<Job> = completions
            .iter()
            .map(|completion| {
                let (reply, receiver) = oneshot::channel();
                replies.push(receiver);
                Job { row: row.clone(), completion: completion.as_str().into(), attempts: 0, reply }
            })
            .collect();
        self.queue.push(jobs);
        Submitted { since: Instant::now(), replies }
    }

    pub(super) async fn collect(&self, submitted: Submitted) -> Result<Vec<Grade>, GradingError> {
        let error = |problem| GradingError { grader: self.label.clone(), problem };
        self.start().map_err(|e| error(format!("its thread cannot be started: {e}")))?;
        let mut grades = Vec::with_capacity(submitted.replies.len());
        for reply in submitted.replies {
            let reply = reply.await.unwrap_or_else(|_| Err("its thread ended: this is a bug".into()));
            let failed = |_: &String| GraderStats::add(&self.stats.failures);
            grades.push(reply.inspect_err(failed).map_err(error)?);
        }
        self.stats.took(submitted.since.elapsed());
        Ok(grades)
    }

    /// Starts the thread if it does not run.
    fn start(&self) -> std::io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Some(PoolThread::spawn(&self.spec, &self.queue, &self.stats)?);
        }
        Ok(())
    }
}

/// Ends the thread, and with it all processes, when it is dropped.
struct PoolThread {
    stop: Option<oneshot::Sender<()>>,
    handle: Option<JoinHandle<()>>,
}

impl PoolThread {
    fn spawn(spec: &ExternalSpec, queue: &Arc<Queue>, stats: &Arc<GraderStats>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (spec, queue, stats) = (spec.clone(), queue.clone(), stats.clone());
        let work = move || {
            runtime.block_on(async {
                for slot in 0..spec.workers {
                    let (spec, queue, stats) = (spec.clone(), queue.clone(), stats.clone());
                    match &spec.program {
                        Program::Http(_) => drop(tokio::spawn(HttpWorker::new(spec, slot, queue, stats).work())),
                        _ => drop(tokio::spawn(CommandWorker::new(spec, slot, queue, stats).work())),
                    }
                }
                drop(stopped.await);
            });
            // Not waiting for HTTP requests that still run.
            runtime.shutdown_background();
        };
        let handle = std::thread::Builder::new().name("grader".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), handle: Some(handle) })
    }
}

impl Drop for PoolThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(handle) = self.handle.take() {
            drop(handle.join());
        }
    }
}
