//! Which weights made a completion.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The trainer's step, and the hash of the adapter that was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    pub step: u64,
    pub adapter: AdapterHash,
}

/// SHA-256 of an adapter's safetensors bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdapterHash(pub Arc<str>);

impl AdapterHash {
    /// The first 12 hexadecimal digits, enough to distinguish adapters in a log.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for AdapterHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
