//! The programs, and where they differ in a route or in how they say something.

use reqwest::StatusCode;

use super::transport::Reply;

/// The programs that can serve training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Ours,
    Vllm,
    Sglang,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "dump-rl",
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
        }
    }

    pub fn generate_route(self) -> &'static str {
        match self {
            Self::Ours | Self::Vllm => "/v1/completions",
            Self::Sglang => "/generate",
        }
    }

    pub fn load_route(self) -> &'static str {
        match self {
            Self::Ours | Self::Vllm => "/v1/load_lora_adapter",
            Self::Sglang => "/load_lora_adapter",
        }
    }

    pub fn unload_route(self) -> &'static str {
        match self {
            Self::Ours | Self::Vllm => "/v1/unload_lora_adapter",
            Self::Sglang => "/unload_lora_adapter",
        }
    }

    /// Whether generation failed because the adapter is missing: SGLang has no status for it, only words.
    pub fn lacks_policy(self, reply: &Reply) -> bool {
        match self {
            Self::Ours | Self::Vllm => reply.status == StatusCode::NOT_FOUND,
            Self::Sglang => {
                let unknown = says(reply, &["not loaded"]) || says(reply, &["never been loaded"]);
                reply.status == StatusCode::BAD_REQUEST && unknown && says(reply, &["lora"])
            }
        }
    }

    /// Whether loading failed because the adapter is there.
    pub fn has_policy(self, reply: &Reply) -> bool {
        reply.status == StatusCode::BAD_REQUEST && says(reply, &["already", "loaded"])
    }

    /// Whether unloading failed because the adapter is not there.
    pub fn had_no_policy(self, reply: &Reply) -> bool {
        match self {
            Self::Ours | Self::Vllm => reply.status == StatusCode::NOT_FOUND,
            Self::Sglang => matches!(reply.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND),
        }
    }
}

/// Whether the body of an answer has all of these words.
fn says(reply: &Reply, words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(&reply.bytes).to_lowercase();
    words.iter().all(|word| text.contains(word))
}
