//! What can go wrong in an engine.

use std::path::PathBuf;

use crate::version::AdapterHash;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's folder or the asked settings cannot work: the caller's input is wrong.
    #[error("{}: {problem}", path.display())]
    Model { path: PathBuf, problem: String },
    /// An adapter's bytes are not what they should be.
    #[error("adapter: {0}")]
    Adapter(String),
    /// The engine loaded other weights than were published.
    #[error("published adapter {published} but the engine loaded {loaded}: this is a bug in the engine")]
    WrongAdapter { published: AdapterHash, loaded: AdapterHash },
    /// The prompt leaves no room for a single token, or is empty.
    #[error("prompt of {tokens} tokens does not fit the model's context of {context}")]
    PromptLength { tokens: usize, context: usize },
    /// Generation failed.
    #[error("generation failed: {0}")]
    Generate(String),
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Whether the user's input, not the run, is at fault.
    pub fn is_input(&self) -> bool {
        matches!(self, EngineError::Model { .. } | EngineError::PromptLength { .. })
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        EngineError::Generate(error.to_string())
    }
}
