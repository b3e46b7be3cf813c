//! A worker that sends batches to a server, one at a time.
//!
//! A request is sent again after a connection error, a time-out or a status of 500 and above; never after another status.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::protocol::{self, Request, shorten};
use super::queue::{Job, Queue};
use super::stats::GraderStats;
use crate::config::grader_spec::{ExternalSpec, Program};
use crate::task::Grade;

/// The longest body of a reply.
const MOST_BYTES: u64 = 64 << 20;
/// The wait before the first new attempt. It doubles.
const BACKOFF: Duration = Duration::from_millis(250);

/// See the module.
pub struct HttpWorker {
    spec: ExternalSpec,
    slot: usize,
    queue: Arc<Queue>,
    stats: Arc<GraderStats>,
}

/// Why a request failed, and whether another attempt can help.
struct HttpError {
    problem: String,
    again: bool,
}

impl HttpWorker {
    pub fn new(spec: ExternalSpec, slot: usize, queue: Arc<Queue>, stats: Arc<GraderStats>) -> Self {
        Self { spec, slot, queue, stats }
    }

    /// Serves jobs until it is dropped.
    pub async fn work(self) {
        let mut changed = self.queue.subscribe();
        let agent = ureq::AgentBuilder::new().timeout(Duration::from_secs_f64(self.spec.timeout_s)).build();
        loop {
            let jobs = self.queue.take_batch(self.slot, self.spec.batch);
            if jobs.is_empty() {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let count = jobs.len();
            self.grade(&agent, jobs).await;
            self.queue.release(self.slot, count);
        }
    }

    async fn grade(&self, agent: &ureq::Agent, jobs: Vec<Job>) {
        let ids: Vec<u64> = jobs.iter().map(|_| self.queue.new_id()).collect();
        let requests = ids.iter().zip(&jobs).map(|(id, job)| Request::new(*id, &job.row, &job.completion));
        let body = Arc::new(json!({"items": requests.collect::<Vec<_>>()}));
        match self.post_with_retries(agent, &body).await.and_then(|reply| by_id(&reply)) {
            Ok(mut grades) => {
                for (id, job) in ids.iter().zip(jobs) {
                    let grade = grades.remove(id).unwrap_or_else(|| Err(format!("no reply has the id {id}")));
                    drop(job.reply.send(grade));
                }
            }
            Err(problem) => jobs.into_iter().for_each(|job| drop(job.reply.send(Err(problem.clone())))),
        }
    }

    async fn post_with_retries(&self, agent: &ureq::Agent, body: &Arc<Value>) -> Result<Value, String> {
        let Program::Http(url) = &self.spec.program else { return Err("no server: this is a bug".into()) };
        let mut attempt = 0;
        loop {
            let (agent, url, body) = (agent.clone(), url.clone(), body.clone());
            let reply = tokio::task::spawn_blocking(move || post(&agent, &url, &body)).await;
            match reply.map_err(|e| e.to_string())? {
                Ok(reply) => return Ok(reply),
                Err(error) if error.again && attempt < self.spec.retries => {
                    GraderStats::add(&self.stats.restarts);
                    tokio::time::sleep(BACKOFF * 2u32.pow(attempt.min(6))).await;
                    attempt += 1;
                }
                Err(error) => return Err(error.problem),
            }
        }
    }
}

fn post(agent: &ureq::Agent, url: &str, body: &Value) -> Result<Value, HttpError> {
    let response = agent.post(url).send_json(body).map_err(|error| match error {
        ureq::Error::Status(status, response) => {
            let text = read(response).unwrap_or_else(|e| e.to_string());
            HttpError {
                problem: format!("it answered with status {status}: {}", shorten(text.trim())),
                again: status >= 500,
            }
        }
        ureq::Error::Transport(error) => HttpError { problem: format!("no answer: {error}"), again: true },
    })?;
    let text =
        read(response).map_err(|e| HttpError { problem: format!("its answer ended early: {e}"), again: true })?;
    let wrong = |_| HttpError { problem: format!("its answer is not JSON: {:?}", shorten(&text)), again: false };
    serde_json::from_str(&text).map_err(wrong)
}

fn read(response: ureq::Response) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    response.into_reader().take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The replies of a batch. Two replies with one id make both worthless.
fn by_id(reply: &Value) -> Result<HashMap<u64, Result<Grade, String>>, String> {
    let replies = reply.get("replies").and_then(Value::as_array);
    let wrong = || format!("expected {{\"replies\": [...]}}, got {:?}", shorten(&reply.to_string()));
    let mut grades = HashMap::new();
    for (id, grade) in replies.ok_or_else(wrong)?.iter().map(protocol::parse).collect::<Result<Vec<_>, _>>()? {
        if grades.insert(id, grade).is_some() {
            return Err(format!("two replies have the id {id}"));
        }
    }
    Ok(grades)
}
