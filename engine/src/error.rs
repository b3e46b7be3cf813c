//! Errors of an engine.

use std::path::PathBuf;

use crate::version::AdapterHash;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's folder or the settings are wrong: the caller's input.
    #[error("{}: {problem}", path.display())]
    Model { path: PathBuf, problem: String },
    /// An adapter does not fit the model, or its bytes are damaged.
    #[error("adapter: {0}")]
    Adapter(String),
    /// The engine loaded other weights than those that were published.
    #[error("published adapter {published} but the engine loaded {loaded}: this is a bug in the engine")]
    WrongAdapter { published: AdapterHash, loaded: AdapterHash },
    /// The prompt is empty, or leaves no room for a token.
    #[error("prompt of {tokens} tokens does not fit the model's context of {context}")]
    PromptLength { tokens: usize, context: usize },
    /// There is no room for the model's weights.
    #[error("could not load the model: {0}")]
    Load(String),
    /// A failure before the first request: a thread did not start, or a device has no room.
    #[error("the engine could not start: {0}")]
    Start(String),
    /// A failure while the engine runs.
    #[error("generation failed: {0}")]
    Generate(String),
    /// It took longer than its caller waits.
    #[error("{0}")]
    Late(String),
    /// A request was answered by an older policy than the one that was loaded when it was sent.
    #[error(
        "the {engine} engine answered by the policy of step {answered} after it had loaded that of step {loaded}: this is a bug in the engine"
    )]
    OldPolicy { engine: String, answered: u64, loaded: u64 },
    /// A server does not do what training needs: the caller's input.
    #[error("{url}: {problem}")]
    Endpoint { url: String, problem: String },
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Whether the user's input is at fault, not the run.
    pub fn is_input(&self) -> bool {
        matches!(self, EngineError::Model { .. } | EngineError::PromptLength { .. } | EngineError::Endpoint { .. })
    }

    /// Whether asking again does not help.
    pub fn is_final(&self) -> bool {
        self.is_input() || matches!(self, EngineError::OldPolicy { .. })
    }

    /// The same failure if it happened before the first request.
    pub fn at_start(self) -> Self {
        match self {
            EngineError::Generate(problem) => EngineError::Start(problem),
            other => other,
        }
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        EngineError::Generate(error.to_string())
    }
}
