//! One completion on its way into a model.

use std::sync::Arc;

use mistralrs::core::{NormalRequest, Request as CoreRequest, RequestMessage, SamplingParams, StopTokens};
use tokio::sync::{mpsc, oneshot};

use super::capture::{Bounds, Caller, Capture, Reply};
use super::place::Place;
use crate::Request;
use crate::seed::mix_seed;

/// One completion before it has a place.
pub struct Sequence {
    prompt: Arc<[u32]>,
    bounds: Bounds,
    seed: u64,
    reply: Reply,
}

impl Sequence {
    /// Completion `index` of a group, of at most `max_new_tokens` tokens, and where its answer comes.
    pub fn new(request: &Request, index: usize, max_new_tokens: usize) -> (Self, Caller) {
        let (reply, answer) = oneshot::channel();
        let bounds = Bounds { prompt_tokens: request.prompt.len(), max_new_tokens, sampling: request.sampling.clone() };
        let seed = mix_seed(request.seed, index as u64);
        (Self { prompt: Arc::clone(&request.prompt), bounds, seed, reply }, answer)
    }

    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Hands it to the model. A model that takes none any more drops it, and with it the place: the caller hears of that.
    pub fn send(self, place: Place, requests: &mpsc::Sender<CoreRequest>) {
        let params = sampling_params(&self.bounds);
        let (capture, response) = Capture::new(self.bounds, self.seed, self.reply, place);
        let message = RequestMessage::CompletionTokens(self.prompt.to_vec());
        let mut core = NormalRequest::new_simple(message, params, response, 0, None, None);
        core.logits_processors = Some(vec![Arc::new(capture)]);
        // Its inbox holds ten thousand, and places are fewer.
        drop(requests.try_send(CoreRequest::Normal(Box::new(core))));
    }
}

/// Greedy, because [`Capture`] has drawn already. Temperature 0 takes mistral.rs's arg-max path; leaving it unset
/// would mean 1.0 and a softmax over the one-hot logits.
fn sampling_params(bounds: &Bounds) -> SamplingParams {
    SamplingParams {
        temperature: Some(0.0),
        max_len: Some(bounds.max_new_tokens),
        stop_toks: Some(StopTokens::Ids(bounds.sampling.stop_tokens.to_vec())),
        ..SamplingParams::deterministic()
    }
}
