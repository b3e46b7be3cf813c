//! The completions that wait for a grader, shared by its workers.
//!
//! A completion that was in a process when it died is a suspect: it is sent again, alone in a process, so that only the one
//! that kills processes fails. Fresh completions go to the worker with the fewest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::task::{Grade, Row};

/// Completions in a process at a time, at most.
const WINDOW: usize = 256;

/// A completion that waits for its grade.
pub struct Job {
    pub row: Arc<Row>,
    pub completion: Arc<str>,
    /// Failed attempts.
    pub attempts: u32,
    pub reply: oneshot::Sender<Result<Grade, String>>,
}

#[derive(Clone, Copy, Default)]
struct Load {
    jobs: usize,
    alone: bool,
}

struct State {
    fresh: VecDeque<Job>,
    suspects: VecDeque<Job>,
    loads: Vec<Load>,
}

/// See the module.
pub struct Queue {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    ids: AtomicU64,
}

impl Queue {
    pub fn new(workers: usize) -> Self {
        let state = State { fresh: VecDeque::new(), suspects: VecDeque::new(), loads: vec![Load::default(); workers] };
        Self { state: Mutex::new(state), changed: watch::Sender::new(()), ids: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that was not given before.
    pub fn new_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells of jobs that came, or can be taken by another worker.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        let mut changed = self.changed.subscribe();
        changed.mark_changed();
        changed
    }

    pub fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        self.lock().fresh.extend(jobs);
        self.changed.send_replace(());
    }

    /// Lets jobs be tried again, each alone, in this order and before all others.
    pub fn push_suspects(&self, jobs: Vec<Job>) {
        let mut state = self.lock();
        jobs.into_iter().rev().for_each(|job| state.suspects.push_front(job));
        drop(state);
        self.changed.send_replace(());
    }

    /// A job for the worker `slot`, if it is its turn.
    pub fn take(&self, slot: usize) -> Option<Job> {
        let mut guard = self.lock();
        let State { fresh, suspects, loads } = &mut *guard;
        suspects.retain(|job| !job.reply.is_closed());
        let least = loads.iter().filter(|load| !load.alone).map(|load| load.jobs).min().unwrap_or(0);
        let load = &mut loads[slot];
        let job = if !suspects.is_empty() {
            let job = if load.jobs == 0 { suspects.pop_front() } else { None };
            load.alone |= job.is_some();
            job
        } else if load.alone || load.jobs >= WINDOW || load.jobs > least {
            None
        } else {
            next(fresh)
        }?;
        load.jobs += 1;
        let others = loads.len() > 1 && !(fresh.is_empty() && suspects.is_empty());
        drop(guard);
        if others {
            self.changed.send_replace(());
        }
        Some(job)
    }

    /// Jobs for an idle worker that takes up to `most` at once: its share, or one suspect.
    pub fn take_batch(&self, slot: usize, most: usize) -> Vec<Job> {
        let mut state = self.lock();
        if let Some(job) = next(&mut state.suspects) {
            state.loads[slot] = Load { jobs: 1, alone: true };
            return vec![job];
        }
        let share = state.fresh.len().div_ceil(state.loads.len()).clamp(1, most);
        let jobs: Vec<Job> = std::iter::from_fn(|| next(&mut state.fresh)).take(share).collect();
        state.loads[slot].jobs = jobs.len();
        jobs
    }

    /// The worker `slot` is done with `jobs` jobs.
    pub fn release(&self, slot: usize, jobs: usize) {
        let load = &mut self.lock().loads[slot];
        load.jobs = load.jobs.saturating_sub(jobs);
        load.alone &= load.jobs > 0;
    }
}

/// The next job whose grade somebody still waits for.
fn next(jobs: &mut VecDeque<Job>) -> Option<Job> {
    std::iter::from_fn(|| jobs.pop_front()).find(|job| !job.reply.is_closed())
}
