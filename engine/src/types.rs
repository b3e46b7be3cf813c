//! What goes into an engine and what comes out: token ids and numbers, no tensors.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// One prompt, and how many completions of it are wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids of the prompt, tokenised once by the caller.
    pub prompt: Arc<[u32]>,
    /// G: how many completions make the group.
    pub group_size: usize,
    /// Completion `i` draws from a generator seeded by `mix_seed(seed, i)`.
    pub seed: u64,
    pub sampling: Sampling,
}

impl Request {
    /// How many tokens may be drawn: what is asked for, as far as a context of `context` tokens goes. At least one.
    ///
    /// # Errors
    /// If the prompt is empty or fills the context, or no token or no completion is asked for.
    pub fn room(&self, context: usize) -> Result<usize, EngineError> {
        let tokens = self.prompt.len();
        if tokens == 0 || tokens >= context {
            return Err(EngineError::PromptLength { tokens, context });
        }
        if self.sampling.max_new_tokens == 0 || self.group_size == 0 {
            return Err(EngineError::Generate("max_new_tokens or the group's size is 0".into()));
        }
        Ok(self.sampling.max_new_tokens.min(context - tokens))
    }
}

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Tokens are drawn from softmax(logits / temperature); 0 takes the most likely token.
    pub temperature: f32,
    /// A completion that reaches this many tokens ends with [`Finish::Length`].
    pub max_new_tokens: usize,
    /// Any of these ids ends the completion with [`Finish::Stop`]; it is the completion's last token.
    pub stop_tokens: Arc<[u32]>,
}

impl Sampling {
    /// At a temperature, up to 512 tokens, until a stop token.
    pub fn new(temperature: f32, stop_tokens: Vec<u32>) -> Self {
        Self { temperature, max_new_tokens: 512, stop_tokens: stop_tokens.into() }
    }
}

/// One sampled answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Sampled ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token under the distribution it was drawn from
    /// (at temperature 0: under softmax(logits)). As long as `tokens`.
    pub log_probs: Vec<f32>,
    pub finish: Finish,
    /// The policy that made the first token.
    pub policy: PolicyVersion,
    /// The policy that made the last token: another one if the engine took up a publish in between.
    pub last_policy: PolicyVersion,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was drawn.
    Stop,
    /// `max_new_tokens` was reached: the completion is truncated.
    Length,
}

/// Which weights made something: the trainer's step, and the hash of the adapter that was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    pub step: u64,
    pub adapter: AdapterHash,
}

/// SHA-256 of an adapter's safetensors bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdapterHash(pub Arc<str>);

impl AdapterHash {
    /// The first 12 hexadecimal digits, enough to tell two adapters apart in a log.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for AdapterHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
