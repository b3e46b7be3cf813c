//! One request, and the state of its prompt.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{Completion, EngineError, PolicyVersion, Request};

/// Answers the caller of a group.
pub type GroupReply = oneshot::Sender<Result<Vec<Completion>, EngineError>>;

/// One request.
pub struct SequenceGroup<B> {
    pub request: Request,
    pub reply: GroupReply,
    pub max_new_tokens: usize,
    pub prompt: PromptState<B>,
    /// How many completions were started.
    pub started: usize,
    pub completions: Vec<Option<Completion>>,
}

pub enum PromptState<B> {
    /// Not started, or dropped to free its blocks.
    Waiting,
    Running,
    Cached(CachedPrompt<B>),
    /// Every completion was started; the prompt is no longer needed.
    Finished,
}

/// A prompt in the cache, and the logits after its last token.
pub struct CachedPrompt<B> {
    /// The policy that computed `logits`, from which every first token is drawn.
    pub policy: PolicyVersion,
    pub blocks: Vec<Arc<B>>,
    pub logits: Vec<f32>,
}
