//! A completion that is not in a model yet.

use std::sync::Arc;

use mistralrs::core::{NormalRequest, Request as CoreRequest, RequestMessage, SamplingParams, StopTokens};
use tokio::sync::{mpsc, oneshot};

use super::admission::Admission;
use super::capture::{Bounds, Capture, ResultReceiver, ResultSender};
use crate::Request;
use crate::seed::mix_seed;

/// One completion before its admission.
pub struct PendingSequence {
    prompt: Arc<[u32]>,
    bounds: Bounds,
    seed: u64,
    reply: ResultSender,
}

impl PendingSequence {
    /// Completion `index` of a group, of at most `max_new_tokens` tokens, and the receiver of its result.
    pub fn new(request: &Request, index: usize, max_new_tokens: usize) -> (Self, ResultReceiver) {
        let (reply, answer) = oneshot::channel();
        let bounds = Bounds { prompt_tokens: request.prompt.len(), max_new_tokens, sampling: request.sampling.clone() };
        let seed = mix_seed(request.seed, index as u64);
        (Self { prompt: Arc::clone(&request.prompt), bounds, seed, reply }, answer)
    }

    /// Whether the caller has gone.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Sends it to the model. A model that has stopped drops the sequence, which frees the admission and tells the
    /// caller.
    pub fn send(self, admission: Admission, requests: &mpsc::Sender<CoreRequest>) {
        let params = sampling_params(&self.bounds);
        let (capture, response) = Capture::new(self.bounds, self.seed, self.reply, admission);
        let message = RequestMessage::CompletionTokens(self.prompt.to_vec());
        let mut core = NormalRequest::new_simple(message, params, response, 0, None, None);
        core.logits_processors = Some(vec![Arc::new(capture)]);
        // The model's inbox holds ten thousand requests, more than can be admitted.
        drop(requests.try_send(CoreRequest::Normal(Box::new(core))));
    }
}

/// Greedy, because [`Capture`] draws the token. Temperature 0 takes mistral.rs's arg-max path; unset, it would mean 1.0
/// and a softmax over the logits.
fn sampling_params(bounds: &Bounds) -> SamplingParams {
    SamplingParams {
        temperature: Some(0.0),
        max_len: Some(bounds.max_new_tokens),
        stop_toks: Some(StopTokens::Ids(bounds.sampling.stop_tokens.to_vec())),
        ..SamplingParams::deterministic()
    }
}
