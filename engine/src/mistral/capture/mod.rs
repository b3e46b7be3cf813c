//! Draws the tokens of one sequence inside mistral.rs, and sends the result out.
//!
//! mistral.rs returns neither token ids nor natural-log probabilities. So a logits processor draws the tokens itself,
//! keeps both, and leaves mistral.rs a single possible token.
//!
//! Ownership matters here. mistral.rs panics, and its model dies, if the receiver of a response is gone; and a slot
//! must not be reused before mistral.rs has dropped the sequence. So the sequence owns its capture, and the capture
//! owns the response's receiver, the admission and the sender to the caller. All of them end when mistral.rs drops the
//! sequence, whatever the reason: it finished, failed, was refused, or the model died. Invariant: each capture answers
//! exactly once, from `drop`.
//!
//! 0.8.1 continues a sequence that ends with its first token, after it has answered. So the capture itself knows where
//! its sequence ends. From there on it draws a stop token, or repeats the last token of a completion of full length,
//! which ends the sequence. mistral.rs does not know stop strings; they end a sequence in the same way, one token late.
//!
//! - `drawn.rs` the tokens and the result · `logits.rs` logits in and out of mistral.rs

mod drawn;
mod logits;

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use mistralrs::core::{CustomLogitsProcessor, Response};
use tokio::sync::{mpsc, oneshot};

use super::admission::Admission;
use crate::EngineError;
use crate::sampler::Sampler;
use drawn::DrawnTokens;
pub use drawn::{Bounds, Captured};
use logits::{rising, with_values};

/// Answers the caller.
pub type ResultSender = oneshot::Sender<Result<Captured, EngineError>>;

/// The caller's end: dropping it abandons the sequence.
pub type ResultReceiver = oneshot::Receiver<Result<Captured, EngineError>>;

/// The logits processor of one sequence.
pub struct Capture {
    bounds: Bounds,
    drawn: Mutex<DrawnTokens>,
    /// Taken in `drop` only; closed if the caller has gone.
    reply: Option<ResultSender>,
    admission: Admission,
}

impl Capture {
    /// The capture, which answers through `reply`, and the sender for mistral.rs's response.
    pub fn new(bounds: Bounds, seed: u64, reply: ResultSender, admission: Admission) -> (Self, mpsc::Sender<Response>) {
        // One response is usual. A sequence that continues after its end, or a batch that fails late, sends a second
        // one, and the model blocks until there is room for it.
        let (response, responses) = mpsc::channel(4);
        let drawn = Mutex::new(DrawnTokens::new(Sampler::new(seed, &bounds.sampling), responses));
        (Self { bounds, drawn, reply: Some(reply), admission }, response)
    }

    /// The token at this position; `context` is the length of prompt and completion so far.
    fn pick(&self, logits: &[f32], context: usize) -> u32 {
        let abandoned = self.reply.as_ref().is_none_or(oneshot::Sender::is_closed);
        if let (true, Some(&stop)) = (abandoned, self.bounds.sampling.stop_tokens.first()) {
            return stop;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        match drawn.ended(&self.bounds).or_else(|| drawn.kept(&self.bounds, context)) {
            Some(token) => token,
            None => drawn.draw(logits),
        }
    }
}

impl CustomLogitsProcessor for Capture {
    /// `logits`: (V), f32, already on the CPU. Returns logits of which the last, that of the pick, is the largest.
    ///
    /// 0.8.1 calls this on rayon's global pool for the sequences of a step (on the model's thread if there is only
    /// one). Its arg-max takes the index of the largest number and does not need V of them.
    fn apply(&self, logits: &Tensor, context: &[u32]) -> candle_core::Result<Tensor> {
        let vocabulary = logits.elem_count();
        if vocabulary == 0 {
            candle_core::bail!("the model gave no logits");
        }
        let pick = with_values(logits, |values| self.pick(values, context.len()))? as usize;
        self.admission.drawn(context.len());
        if pick >= vocabulary {
            candle_core::bail!("stop token {pick} is not in the vocabulary");
        }
        rising(vocabulary)?.narrow(0, 0, pick + 1)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let drawn = self.drawn.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Fails only if the caller has gone.
            let _ = reply.send(drawn.answer(&self.bounds));
        }
    }
}

#[cfg(test)]
mod tests;
