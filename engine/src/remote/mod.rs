//! Serving engines on other machines: rollouts over HTTP.
//!
//! - `server.rs` what one server is to the fleet · `settings.rs` what the caller decides
//! - `http/` servers that speak HTTP · `folder.rs` adapters in a folder that they share
//! - `fleet/` many servers as one engine

mod fleet;
mod folder;
mod http;
mod server;
mod settings;

pub use fleet::Fleet;
pub use http::HttpServers;
pub use server::{Answer, Capabilities, Connect, Failure, FailureKind, Server};
pub use settings::{AdapterFolders, EndpointSettings, RemoteSettings, ServedModel, Token};

use crate::{Adapter, EngineError};

/// Servers over HTTP as one engine.
pub type Remote = Fleet<HttpServers>;

/// Checks the servers, and loads `adapter` on them as the policy of step 0.
///
/// # Errors
/// As [`HttpServers::new`] and [`Fleet::start`].
pub async fn start(settings: RemoteSettings, adapter: Adapter) -> Result<Remote, EngineError> {
    Fleet::start(HttpServers::new(&settings)?, settings, adapter).await
}
