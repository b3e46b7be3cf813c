//! Serving engines on other machines: rollouts over HTTP.
//!
//! - `fleet/` many servers as one engine
//! - `server.rs` what one server is to the fleet · `settings.rs` what the caller decides

mod fleet;
mod server;
mod settings;

pub use fleet::Fleet;
pub use server::{Answer, Capabilities, Connect, Failure, FailureKind, Server};
pub use settings::{AdapterFolders, EndpointSettings, RemoteSettings, ServedModel, Token};
