//! Serving engines on other machines: rollouts over HTTP.
//!
//! - `server.rs` what one server is to the fleet · `settings.rs` what the caller decides
//! - `http/` servers that speak HTTP · `folder.rs` adapters in a folder that they share

mod folder;
mod http;
mod server;
mod settings;

pub use http::HttpServers;
pub use server::{Answer, Capabilities, Connect, Failure, FailureKind, Server};
pub use settings::{AdapterFolders, EndpointSettings, RemoteSettings, ServedModel, Token};

// TEMPORARY STUB
use crate::{Adapter, Completion, Engine, EngineError, PolicyVersion, Request};
pub struct Remote;
pub async fn start(_: RemoteSettings, _: Adapter) -> Result<Remote, EngineError> {
    Err(EngineError::Stopped)
}
impl Remote {
    pub async fn close(&self) {}
}
impl Engine for Remote {
    async fn generate(&self, _: Request) -> Result<Vec<Completion>, EngineError> {
        Err(EngineError::Stopped)
    }
    async fn publish(&self, _: u64, _: Adapter) -> Result<PolicyVersion, EngineError> {
        Err(EngineError::Stopped)
    }
    fn concurrency(&self, _: usize) -> usize {
        1
    }
}
