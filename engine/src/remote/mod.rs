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
