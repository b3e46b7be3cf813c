//! One request, and the state of its prompt.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::policy::OwnPolicy;
use crate::{Completion, EngineError, PolicyVersion, Request};

/// Answers the caller of a group.
pub type GroupReply = oneshot::Sender<Result<Vec<Completion>, EngineError>>;

/// A token of a completion, as soon as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnToken {
    /// Which completion of the group.
    pub index: usize,
    pub token: u32,
    /// As in [`Completion`].
    pub log_prob: f32,
    pub full_log_prob: f32,
}

/// Takes a group's tokens while it runs. Those that follow each other in a completion come in that order.
pub type TokenSink = mpsc::UnboundedSender<DrawnToken>;

/// What a caller asks for.
pub struct Submission {
    pub request: Request,
    /// How many tokens it may draw ([`Request::room`]).
    pub room: usize,
    pub policy: OwnPolicy,
    pub tokens: Option<TokenSink>,
    pub reply: GroupReply,
}

/// One request.
pub struct SequenceGroup<B> {
    pub request: Request,
    pub policy: OwnPolicy,
    pub tokens: Option<TokenSink>,
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
