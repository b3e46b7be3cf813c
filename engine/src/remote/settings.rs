//! What the caller decides about servers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

/// How to reach the servers, and what they serve.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// Names this run in the names of its policies: at most 32 letters, digits and hyphens.
    pub run_id: String,
    pub endpoints: Vec<EndpointSettings>,
    /// A file with one address per line, in addition to `endpoints`. It is read again while the run goes on, so that
    /// servers come and go.
    pub endpoints_file: Option<PathBuf>,
    /// Generation goes here instead of to the endpoints; control calls still go to each of them.
    pub router: Option<Url>,
    /// Where adapters are put for servers that read them from a folder.
    pub adapters: Option<AdapterFolders>,
    pub token: Option<Token>,
    /// Certificates that are trusted in addition to the system's, as PEM.
    pub ca: Option<Vec<u8>>,
    /// The most sequences on a server of `endpoints_file`.
    pub max_sequences: usize,
    /// How long a server may take for a request.
    pub request_timeout: Duration,
    /// How long it may take to load or unload an adapter, or to answer a probe.
    pub control_timeout: Duration,
    /// How many times a group is sent again after a failure, before the group fails.
    pub retries: usize,
    /// Whether the last groups of a step are sent to a second server too, where both must give the same tokens.
    pub hedges: bool,
    /// How many policies a server keeps loaded: the staleness and two more.
    pub kept_policies: usize,
    pub model: ServedModel,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointSettings {
    /// Its root, without `/v1`.
    pub url: Url,
    /// The name of the base model there; `None`: the only one that it serves.
    pub model: Option<String>,
    /// The most sequences to have on it at the same time.
    pub max_sequences: usize,
}

/// A folder that servers and this program share, by the path that each of them sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFolders {
    pub here: PathBuf,
    pub at_server: PathBuf,
}

/// What the servers must be able to sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedModel {
    pub vocab_size: usize,
    /// The longest prompt and completion together, in tokens.
    pub context: usize,
    pub temperature: f32,
    /// Whether top-k, top-p or min-p cut the distribution.
    pub truncates: bool,
}

/// A bearer token. It is never printed.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// For the header alone.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
