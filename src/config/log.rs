//! The `[log]` table: how a run writes down what happens.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Of the files in rollouts/, of curriculum.jsonl and of decisions.jsonl.
    pub compression: Compression,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { compression: Compression::Auto }
    }
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// By zstd where a run may write much ([`super::resolve::log_format`]).
    Auto,
    None,
    Zstd,
}
