//! One server, whatever it speaks: what the fleet asks of it, and how it can fail.

use std::future::Future;
use std::sync::Arc;

use super::settings::EndpointSettings;
use crate::{Adapter, EngineError, Finish, Request};

/// A serving engine at one address.
///
/// Dropping any of the futures gives the request up; the server is told by the closed connection.
pub trait Server: Send + Sync + 'static {
    /// The address, as the settings write it: what completions and errors name.
    fn url(&self) -> &Arc<str>;

    /// The most sequences to have on it at the same time.
    fn max_sequences(&self) -> usize;

    /// Finds out what the server is and checks that it can serve training exactly. Asked at the start, and again after
    /// the server was away.
    fn probe(&self) -> impl Future<Output = Result<Capabilities, Failure>> + Send;

    /// `request.group_size` completions under the adapter called `policy`. Each answer was checked: as many
    /// log-probabilities as tokens, every id in the vocabulary, an end that fits the request.
    fn generate(&self, policy: &str, request: &Request) -> impl Future<Output = Result<Vec<Answer>, Failure>> + Send;

    /// Loads an adapter under a name that was never used before. Loading it again is no failure.
    fn load(&self, policy: &str, adapter: &Adapter) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Unloads an adapter. One that is not there is no failure.
    fn unload(&self, policy: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The names of all adapters that the server has loaded.
    fn adapters(&self) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;

    /// Whether the server answers at all.
    fn health(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Makes servers from their settings.
pub trait Connect: Send + Sync + 'static {
    type Server: Server;

    /// Opens no connection yet.
    ///
    /// # Errors
    /// [`EngineError::Endpoint`] if the address cannot be one.
    fn connect(&self, settings: &EndpointSettings) -> Result<Self::Server, EngineError>;

    /// Forgets what was kept for a policy that no server has any more, such as its folder.
    fn retire(&self, policy: &str) -> impl Future<Output = ()> + Send;
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The server's program and version, for logs.
    pub name: String,
    /// Whether the same seed gives the same tokens on every such server: then a request may be sent twice.
    pub keeps_seeds: bool,
}

/// One completion as the server gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    /// As [`crate::Completion::log_probs`].
    pub log_probs: Vec<f32>,
    /// As [`crate::Completion::full_log_probs`].
    pub full_log_probs: Vec<f32>,
    pub finish: Finish,
}

/// Why a server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {problem}")]
pub struct Failure {
    pub kind: FailureKind,
    /// One line; never a token.
    pub problem: String,
}

impl Failure {
    pub fn new(kind: FailureKind, problem: impl Into<String>) -> Self {
        Self { kind, problem: problem.into() }
    }
}

/// The kinds of failure, each with its own counter in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection, or one that broke off.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The server has too much to do (status 429 or 503).
    Busy,
    /// The adapter is not loaded there.
    NoSuchPolicy,
    /// The server failed (another status from 500), or its answer is not what was asked for.
    Broken,
    /// The server refuses the request itself: no other server will take it (another status from 400).
    Refused,
    /// The server cannot serve training exactly.
    Unfit,
}

impl FailureKind {
    pub const ALL: [Self; 7] =
        [Self::Unreachable, Self::TimedOut, Self::Busy, Self::NoSuchPolicy, Self::Broken, Self::Refused, Self::Unfit];

    /// In words, as errors and logs say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Busy => "busy",
            Self::NoSuchPolicy => "the adapter is not loaded",
            Self::Broken => "broken",
            Self::Refused => "refused",
            Self::Unfit => "unfit",
        }
    }
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
