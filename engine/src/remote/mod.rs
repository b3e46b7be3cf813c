//! Serving engines on other machines: rollouts over HTTP.
//!
//! - `server.rs` what one server is to the fleet · `settings.rs` what the caller decides

mod server;
mod settings;

pub use server::{Answer, Capabilities, Connect, Failure, FailureKind, Server};
pub use settings::{AdapterFolders, EndpointSettings, RemoteSettings, ServedModel, Token};
