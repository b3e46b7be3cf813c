//! One HTTP client for all servers: limits in bytes and time, statuses as failures, and no token in any message.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use url::Url;

use crate::EngineError;
use crate::remote::{Failure, FailureKind, RemoteSettings, Token};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest text of a server in a message.
const MAX_MESSAGE: usize = 300;
/// The most bytes of an answer that is no group of completions.
pub const MAX_CONTROL_ANSWER: usize = 4 << 20;

/// Sends requests and reads answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    /// For other machines; the system's proxy applies.
    outside: Client,
    /// For this machine, where a proxy could not reach the server.
    loopback: Client,
    token: Option<Token>,
}

/// How much of an answer is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bytes: usize,
    pub time: Duration,
}

/// What is sent.
pub enum Body {
    Nothing,
    Json(serde_json::Value),
    Form(reqwest::multipart::Form),
}

/// A status and what came with it, whatever the status says.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub bytes: Vec<u8>,
}

impl Transport {
    /// # Errors
    /// [`EngineError::Start`] if the certificates or the token cannot be used.
    pub fn new(settings: &RemoteSettings) -> Result<Self, EngineError> {
        let fail = |what: &str, e: &dyn std::fmt::Display| EngineError::Start(format!("{what}: {e}"));
        let headers = headers(settings.token.as_ref())?;
        let certificates = match &settings.ca {
            Some(pem) => Certificate::from_pem_bundle(pem).map_err(|e| fail("certificates of servers", &e))?,
            None => Vec::new(),
        };
        let builder = || {
            let client = Client::builder().default_headers(headers.clone()).redirect(redirect::Policy::none());
            certificates
                .iter()
                .fold(client.connect_timeout(CONNECT_TIMEOUT), |client, ca| client.add_root_certificate(ca.clone()))
        };
        let outside = builder().build().map_err(|e| fail("HTTP client", &e))?;
        let loopback = builder().no_proxy().build().map_err(|e| fail("HTTP client", &e))?;
        Ok(Self { outside, loopback, token: settings.token.clone() })
    }

    /// The answer, whatever its status. The time limit covers everything from the connection to the last byte.
    pub async fn call(&self, method: Method, url: Url, body: Body, limits: Limits) -> Result<Reply, Failure> {
        let late = || self.failure(FailureKind::TimedOut, &format!("no answer within {:?}", limits.time));
        let exchange = async {
            let response = self.request(method, url, body).send().await.map_err(|e| self.broken_off(e))?;
            let status = response.status();
            Ok(Reply { status, bytes: self.read(response, limits.bytes).await? })
        };
        tokio::time::timeout(limits.time, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    /// What a status other than 2xx means.
    pub fn refusal(&self, reply: &Reply) -> Failure {
        let kind = match reply.status.as_u16() {
            401 | 403 => FailureKind::Unfit,
            408 | 504 => FailureKind::TimedOut,
            429 | 503 => FailureKind::Busy,
            400..=499 => FailureKind::Refused,
            _ => FailureKind::Broken,
        };
        let advice = match kind {
            FailureKind::Unfit => ": give its token by `engine.remote.token_env` or `engine.remote.token_file`",
            _ => "",
        };
        self.failure(kind, &format!("status {}{advice}: {}", reply.status.as_u16(), message(&reply.bytes)))
    }

    /// The answer of a request that succeeded, as JSON.
    pub fn parse<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, Failure> {
        if !reply.status.is_success() {
            return Err(self.refusal(reply));
        }
        let unreadable = |e| self.failure(FailureKind::Broken, &format!("unreadable answer: {e}"));
        serde_json::from_slice(&reply.bytes).map_err(unreadable)
    }

    /// A failure whose text may hold what a server said: one short line without the token.
    pub fn failure(&self, kind: FailureKind, problem: &str) -> Failure {
        let line = one_line(problem);
        let hidden = match &self.token {
            Some(token) if !token.secret().is_empty() => line.replace(token.secret(), "…"),
            _ => line,
        };
        Failure::new(kind, cut(hidden))
    }

    fn request(&self, method: Method, url: Url, body: Body) -> RequestBuilder {
        let client = if is_loopback(&url) { &self.loopback } else { &self.outside };
        let request = client.request(method, url);
        match body {
            Body::Nothing => request,
            Body::Json(value) => request.json(&value),
            Body::Form(form) => request.multipart(form),
        }
    }

    /// Reads chunk by chunk, so that no server can fill the memory.
    async fn read(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken_off(e))? {
            if bytes.len() + chunk.len() > limit {
                let problem = format!("the answer is longer than the {limit} bytes it may have");
                return Err(self.failure(FailureKind::Broken, &problem));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn broken_off(&self, error: reqwest::Error) -> Failure {
        let kind = match &error {
            e if e.is_timeout() => FailureKind::TimedOut,
            e if e.is_builder() => FailureKind::Broken,
            _ => FailureKind::Unreachable,
        };
        // Whoever reports the failure names the address.
        self.failure(kind, &chain(&error.without_url()))
    }
}

fn headers(token: Option<&Token>) -> Result<HeaderMap, EngineError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        // The error would not print the value, but nothing is won by naming its cause.
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret())).map_err(|_| {
            EngineError::Start("the token of the servers has characters that no header may have".into())
        })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An error and its causes; reqwest's own text leaves the causes out.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The message of an OpenAI error body, or the whole body.
fn message(bytes: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let message = json.as_ref().and_then(|json| {
        let said = [json.pointer("/error/message"), json.get("message"), json.get("detail"), json.get("error")];
        said.into_iter().flatten().find_map(serde_json::Value::as_str)
    });
    message.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_string)
}

fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cut(line: String) -> String {
    match line.char_indices().nth(MAX_MESSAGE) {
        Some(_) => line.chars().take(MAX_MESSAGE - 1).chain(['…']).collect(),
        None => line,
    }
}
