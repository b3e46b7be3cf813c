//! A worker that keeps one process: writes requests, reads replies in any order, and starts another process when one fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep_until};

use super::process::Process;
use super::protocol::{self, Request};
use super::queue::{Job, Queue};
use super::stats::GraderStats;
use crate::config::grader_spec::ExternalSpec;

/// More empty lines than this in a row are an error.
const MOST_EMPTY_LINES: usize = 1000;

/// See the module.
pub struct CommandWorker {
    spec: ExternalSpec,
    slot: usize,
    queue: Arc<Queue>,
    stats: Arc<GraderStats>,
    process: Option<Process>,
    started: u64,
    /// What the process must still be sent.
    out: VecDeque<u8>,
    /// By id. The latest moment of each reply stands beside it.
    in_flight: BTreeMap<u64, (Job, Instant)>,
    last_progress: Instant,
    /// Since the last line with text.
    empty_lines: usize,
}

enum Event {
    Line(Result<Option<Vec<u8>>, String>),
    Written(std::io::Result<usize>),
    Changed,
    TimedOut,
}

impl CommandWorker {
    pub fn new(spec: ExternalSpec, slot: usize, queue: Arc<Queue>, stats: Arc<GraderStats>) -> Self {
        let (out, in_flight, last_progress) = (VecDeque::new(), BTreeMap::new(), Instant::now());
        Self { spec, slot, queue, stats, process: None, started: 0, out, in_flight, last_progress, empty_lines: 0 }
    }

    /// Serves jobs until it is dropped.
    pub async fn work(mut self) {
        let mut changed = self.queue.subscribe();
        loop {
            while let Some(job) = self.queue.take(self.slot) {
                self.send(job);
            }
            let deadline = self.deadline();
            let Some(process) = &mut self.process else {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if !self.in_flight.is_empty() && Instant::now() >= deadline {
                self.on_time_out();
                continue;
            }
            let event = tokio::select! {
                line = process.lines.next() => Event::Line(line),
                written = process.stdin.write_buf(&mut self.out), if !self.out.is_empty() => Event::Written(written),
                _ = changed.changed() => Event::Changed,
                () = sleep_until(deadline), if !self.in_flight.is_empty() => Event::TimedOut,
            };
            match event {
                Event::Line(Ok(Some(line))) => self.on_line(&line),
                Event::Line(Ok(None)) | Event::Written(Err(_)) => self.on_end().await,
                Event::Line(Err(problem)) => self.replace(&problem),
                Event::Written(Ok(_)) | Event::Changed => {}
                Event::TimedOut => self.on_time_out(),
            }
        }
    }

    fn send(&mut self, job: Job) {
        if self.process.is_none() {
            match Process::start(&self.spec) {
                Ok(process) => self.process = Some(process),
                Err(problem) => return self.retry(vec![job], &problem),
            }
            if self.started > 0 {
                GraderStats::add(&self.stats.restarts);
            }
            (self.started, self.last_progress) = (self.started + 1, Instant::now());
        }
        let now = Instant::now();
        if self.in_flight.is_empty() {
            self.last_progress = now;
        }
        let id = self.queue.new_id();
        // A process may answer one after the other, so each of those before this one may take the whole time.
        let latest = now + self.start_allowance() + self.time_out() * (self.in_flight.len() as u32 + 1);
        match serde_json::to_vec(&Request::new(id, &job.row, &job.completion)) {
            Ok(line) => {
                self.out.extend(line);
                self.out.push_back(b'\n');
                self.in_flight.insert(id, (job, latest));
            }
            Err(e) => self.finish(job, Err(format!("its request cannot be written: {e}"))),
        }
    }

    fn time_out(&self) -> Duration {
        Duration::from_secs_f64(self.spec.timeout_s)
    }

    /// The first reply of a process may take longer.
    fn start_allowance(&self) -> Duration {
        let is_new = self.process.as_ref().is_some_and(|process| !process.replied);
        if is_new { Duration::from_secs_f64(self.spec.start_timeout_s) } else { Duration::ZERO }
    }

    fn deadline(&self) -> Instant {
        let silence = self.last_progress + self.time_out() + self.start_allowance();
        self.in_flight.values().map(|(_, latest)| *latest).min().map_or(silence, |latest| latest.min(silence))
    }

    fn on_line(&mut self, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            self.empty_lines += 1;
            if self.empty_lines > MOST_EMPTY_LINES {
                self.replace("it writes empty lines without end");
            }
            return;
        }
        self.empty_lines = 0;
        if protocol::is_ready(line) {
            return self.on_ready();
        }
        let (id, grade) = match protocol::parse_line(line) {
            Ok(reply) => reply,
            Err(problem) => return self.replace(&problem),
        };
        match self.in_flight.remove(&id) {
            Some((job, _)) => {
                self.last_progress = Instant::now();
                self.process.iter_mut().for_each(|process| process.replied = true);
                self.finish(job, grade);
            }
            None => {
                let text = protocol::shorten(&String::from_utf8_lossy(line));
                self.replace(&format!("it replied to id {id}, which does not wait for a reply: {text:?}"));
            }
        }
    }

    /// From now on the time-outs are those of completions alone.
    fn on_ready(&mut self) {
        let (now, time_out) = (Instant::now(), self.time_out());
        self.last_progress = now;
        self.process.iter_mut().for_each(|process| process.replied = true);
        for (before, (_, latest)) in (1..).zip(self.in_flight.values_mut()) {
            *latest = now + time_out * before;
        }
    }

    async fn on_end(&mut self) {
        let problem = match self.process.take() {
            Some(process) => process.end().await,
            None => return,
        };
        self.replace(&problem);
    }

    fn on_time_out(&mut self) {
        GraderStats::add(&self.stats.timeouts);
        let last_words = self.process.as_ref().map(Process::last_words).unwrap_or_default();
        let problem = format!("it gave no reply within {} s{last_words}", self.spec.timeout_s);
        if self.in_flight.len() == 1 {
            // It had the process for itself. Another attempt would take as long.
            self.in_flight.values_mut().for_each(|(job, _)| job.attempts = self.spec.retries);
        }
        self.replace(&problem);
    }

    /// Kills the process. What it was working on is tried again.
    fn replace(&mut self, problem: &str) {
        self.process = None;
        self.empty_lines = 0;
        self.out.clear();
        let jobs: Vec<Job> = std::mem::take(&mut self.in_flight).into_values().map(|(job, _)| job).collect();
        if !jobs.is_empty() {
            self.retry(jobs, problem);
        }
    }

    fn retry(&mut self, jobs: Vec<Job>, problem: &str) {
        let count = jobs.len();
        let jobs = jobs.into_iter().map(|job| Job { attempts: job.attempts + 1, ..job });
        let (failed, suspects): (Vec<Job>, Vec<Job>) = jobs.partition(|job| job.attempts > self.spec.retries);
        self.queue.release(self.slot, count);
        self.queue.push_suspects(suspects);
        failed.into_iter().for_each(|job| drop(job.reply.send(Err(problem.to_string()))));
    }

    fn finish(&mut self, job: Job, grade: Result<crate::task::Grade, String>) {
        self.queue.release(self.slot, 1);
        drop(job.reply.send(grade));
    }
}
