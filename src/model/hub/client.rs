//! Requests to the hub: what a repository has, what a file is, and its content.
//!
//! Redirects are followed here, because the token goes to the hub and to no other host.

use std::cell::RefCell;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::{Agent, AgentBuilder, Proxy, Response};
use url::Url;

use super::HubError;
use super::cache::{Repo, is_inside};
use super::environment::Environment;

/// Waits before new attempts.
const WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// The longest wait that the hub may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;
/// The longest list of files.
const MOST_BYTES: u64 = 256 << 20;

pub struct Client<'a> {
    environment: &'a Environment,
    /// Kept, so that connections are used again.
    agents: RefCell<Vec<(Route, Agent)>>,
}

/// A proxy, if there is one for an address, and a time-out.
type Route = (Option<String>, Duration);

/// The files of a repository at one commit.
pub struct Listing {
    pub commit: String,
    pub names: Vec<String>,
}

/// What the hub says of a file.
pub struct Remote {
    pub name: String,
    /// Names the blob. The SHA-256 of a large file.
    pub etag: String,
    pub size: Option<u64>,
}

/// The content of a file from byte `start` on.
pub struct Body {
    pub start: u64,
    pub reader: Box<dyn Read + Send + Sync>,
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// The redirect to a storage host is the answer: it describes the file.
    OnHub,
    Everywhere,
}

/// Repeats an attempt that may succeed later, with growing waits.
pub fn patiently<T>(mut attempt: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
    for wait in WAITS {
        match attempt() {
            Err(error) if error.may_pass() => pause(&error, wait)?,
            done => return done,
        }
    }
    attempt()
}

/// Waits as long as the hub asked for, or `wait`.
fn pause(error: &HubError, wait: Duration) -> Result<(), HubError> {
    let wait = match error {
        HubError::TooManyRequests(asked) if *asked > LONGEST_WAIT => return Err(HubError::TooManyRequests(*asked)),
        HubError::TooManyRequests(asked) => wait.max(*asked),
        _ => wait,
    };
    std::thread::sleep(wait);
    Ok(())
}

/// Waits before an attempt that follows `failures` others in a row; or returns the last error.
pub fn wait_again(error: HubError, failures: usize) -> Result<(), HubError> {
    match WAITS.get(failures.saturating_sub(1)) {
        Some(wait) if error.may_pass() => pause(&error, *wait),
        _ => Err(error),
    }
}

impl<'a> Client<'a> {
    pub fn new(environment: &'a Environment) -> Self {
        Self { environment, agents: RefCell::default() }
    }

    pub fn listing(&self, repo: &Repo) -> Result<Listing, HubError> {
        let api = match repo.kind {
            super::Kind::Model => ["api", "models"],
            super::Kind::Dataset => ["api", "datasets"],
        };
        let parts = api.into_iter().chain(repo.id.split('/')).chain(["revision", &repo.revision]);
        let timeout = self.environment.metadata_timeout;
        let response = self.request("GET", self.address(parts), 0, timeout, Follow::Everywhere)?;
        let mut text = Vec::new();
        let read = response.into_reader().take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(|e| HubError::Network(format!("its answer broke off: {e}")))?;
        let wrong = || HubError::NotAHub("no list of files came".into());
        let info: Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
        let commit = info["sha"].as_str().filter(|commit| is_inside(commit)).ok_or_else(wrong)?.to_string();
        let files = info["siblings"].as_array().ok_or_else(wrong)?;
        let mut names: Vec<String> =
            files.iter().filter_map(|file| Some(file["rfilename"].as_str()?.to_string())).collect();
        names.retain(|name| is_inside(name));
        names.sort();
        Ok(Listing { commit, names })
    }

    pub fn describe(&self, repo: &Repo, commit: &str, name: &str) -> Result<Remote, HubError> {
        let timeout = self.environment.metadata_timeout;
        let response = self.request("HEAD", self.file(repo, commit, name), 0, timeout, Follow::OnHub);
        let response = response.map_err(|e| named(e, name))?;
        let is_redirect = response.status() >= 300;
        let etag = response.header("X-Linked-Etag").or_else(|| response.header("ETag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
        let is_name = |etag: &String| is_inside(etag) && !etag.contains('/');
        let missing = || HubError::NotAHub(format!("{name} has no ETag"));
        let size = response.header("X-Linked-Size");
        let size = size.or_else(|| response.header("Content-Length").filter(|_| !is_redirect));
        Ok(Remote {
            name: name.into(),
            etag: etag.filter(is_name).ok_or_else(missing)?,
            size: size.and_then(|size| size.parse().ok()),
        })
    }

    /// The content of a file from byte `from` on, or from the beginning if the server cannot do that.
    pub fn open(&self, repo: &Repo, commit: &str, name: &str, from: u64) -> Result<Body, HubError> {
        let timeout = self.environment.download_timeout;
        let response = self.request("GET", self.file(repo, commit, name), from, timeout, Follow::Everywhere);
        let response = response.map_err(|e| named(e, name))?;
        let start = match response.status() {
            206 => first_byte(&response).unwrap_or(from),
            _ => 0,
        };
        Ok(Body { start, reader: response.into_reader() })
    }

    fn file(&self, repo: &Repo, commit: &str, name: &str) -> Url {
        self.address(repo.prefix().into_iter().chain(["resolve", commit]).chain(name.split('/')))
    }

    /// The endpoint with these parts behind it, each escaped.
    fn address<'b>(&self, parts: impl Iterator<Item = &'b str>) -> Url {
        let mut url = self.environment.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    fn request(&self, method: &str, url: Url, from: u64, wait: Duration, follow: Follow) -> Result<Response, HubError> {
        let mut url = url;
        for _ in 0..MOST_REDIRECTS {
            let mut request = self.agent(&url, wait)?.request_url(method, &url).set("Accept-Encoding", "identity");
            if let Some(token) = self.environment.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.set("Authorization", &format!("Bearer {}", token.text));
            }
            if from > 0 {
                request = request.set("Range", &format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::Status(status, response) if self.is_hub(&url) => refusal(status, &response),
                ureq::Error::Status(416, _) => damaged_part(),
                ureq::Error::Status(status, _) => HubError::Network(format!("{} answered {status}", host(&url))),
                ureq::Error::Transport(error) => HubError::Network(reason(&error)),
            })?;
            let target = response.header("Location").filter(|_| (300..400).contains(&response.status()));
            let Some(target) = target else { return Ok(response) };
            let target = url.join(target).map_err(|e| HubError::NotAHub(format!("it redirects to {target:?}: {e}")))?;
            if follow == Follow::OnHub && !self.is_hub(&target) {
                return Ok(response);
            }
            url = target;
        }
        Err(HubError::NotAHub("it redirects without end".into()))
    }

    /// Whether an address belongs to the hub, which may see the token.
    fn is_hub(&self, url: &Url) -> bool {
        let is_public = url.scheme() == "https" && ["huggingface.co", "hf.co"].contains(&host(url));
        is_public || url.origin() == self.environment.endpoint.origin()
    }

    fn agent(&self, url: &Url, timeout: Duration) -> Result<Agent, HubError> {
        let proxy = self.environment.proxies.of(url).map(str::to_string);
        let (mut agents, key) = (self.agents.borrow_mut(), (proxy.clone(), timeout));
        if let Some((_, agent)) = agents.iter().find(|(known, _)| *known == key) {
            return Ok(agent.clone());
        }
        let mut agent = AgentBuilder::new().redirects(0).timeout_connect(timeout).timeout_read(timeout);
        agent = agent.user_agent(concat!("dump-rl/", env!("CARGO_PKG_VERSION"))).try_proxy_from_env(false);
        if let Some(address) = proxy {
            let proxy = Proxy::new(&address).map_err(|e| HubError::Network(format!("the proxy {address}: {e}")))?;
            agent = agent.proxy(proxy);
        }
        let agent = agent.build();
        agents.push((key, agent.clone()));
        Ok(agent)
    }
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// What went wrong, without the address: a signed one is long, and gives access.
fn reason(error: &ureq::Transport) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{}{source}", error.kind())
}

/// The first byte of `Content-Range: bytes 100-199/200`.
fn first_byte(response: &Response) -> Option<u64> {
    response.header("Content-Range")?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn damaged_part() -> HubError {
    HubError::Damaged { file: String::new(), problem: "the part that is here is longer than the file".into() }
}

/// What the hub means by a status.
fn refusal(status: u16, response: &Response) -> HubError {
    let message = response.header("X-Error-Message").unwrap_or_default();
    match (response.header("X-Error-Code"), status) {
        (Some("GatedRepo"), _) => HubError::Gated,
        (Some("RepoNotFound"), _) => HubError::NoRepository,
        (Some("RevisionNotFound"), _) => HubError::NoRevision,
        (Some("EntryNotFound"), _) => HubError::NoFile(String::new()),
        (_, 401) if message == "Invalid credentials in Authorization header" => HubError::BadToken,
        // Without a token the hub does not tell a private repository from one that is missing.
        (_, 401) => HubError::NoRepository,
        (_, 403) if message.is_empty() => HubError::Forbidden("status 403".into()),
        (_, 403) => HubError::Forbidden(message.trim_end_matches('.').into()),
        (_, 416) => damaged_part(),
        (_, 429) => {
            let after = response.header("Retry-After").and_then(|seconds| seconds.trim().parse().ok());
            HubError::TooManyRequests(Duration::from_secs(after.unwrap_or(0)))
        }
        (_, 408) => HubError::Network("status 408".into()),
        (_, 500..) => HubError::Server(status),
        _ => HubError::NotAHub(format!("status {status}")),
    }
}

/// The same error with the file's name.
fn named(error: HubError, name: &str) -> HubError {
    match error {
        HubError::NoFile(_) => HubError::NoFile(name.into()),
        HubError::Damaged { problem, .. } => HubError::Damaged { file: name.into(), problem },
        other => other,
    }
}
