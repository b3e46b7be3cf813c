//! Draws the tokens of one sequence inside mistral.rs, and carries its answer out.
//!
//! mistral.rs returns neither token ids nor natural-log probabilities, so a logits processor draws by itself, keeps
//! both, and leaves mistral.rs a single possible token.
//!
//! Ownership is the point of this file. mistral.rs panics, and its model dies, when the receiver of a response is
//! gone; and a slot may not be given on before mistral.rs has let go of the sequence. So the sequence itself owns
//! its capture, and the capture owns the response's receiver, the slot, and the way back to the caller: all end
//! together, when mistral.rs drops the sequence, for whatever reason (done, failed, refused, model gone).
//! Invariant: each capture answers exactly once, from `drop`.
//!
//! 0.8.1 lets a sequence that ends with its first token run on, after it has answered. The capture knows by itself
//! where its sequence ends: from there on it draws a stop token, or repeats the last token of a full completion, which
//! ends the sequence for good. A stop string is found here alone, and ends in the same way, one token late.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, Device, Storage, Tensor};
use mistralrs::core::{CustomLogitsProcessor, Response};
use tokio::sync::{mpsc, oneshot};

use super::place::Place;
use crate::sampler::Sampler;
use crate::{EngineError, Finish, Sampling};

/// What one sequence produced.
#[derive(Debug)]
pub struct Answer {
    pub tokens: Vec<u32>,
    /// As long as `tokens`.
    pub log_probs: Vec<f32>,
    /// As long as `tokens`.
    pub full_log_probs: Vec<f32>,
    pub finish: Finish,
}

pub type Reply = oneshot::Sender<Result<Answer, EngineError>>;

/// The caller's end: dropping it abandons the sequence.
pub type Caller = oneshot::Receiver<Result<Answer, EngineError>>;

/// Where a sequence begins and ends.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub prompt_tokens: usize,
    /// At least one.
    pub max_new_tokens: usize,
    pub sampling: Sampling,
}

pub struct Capture {
    bounds: Bounds,
    state: Mutex<State>,
    /// Taken in `drop` only; closed when the caller has gone.
    reply: Option<Reply>,
    place: Place,
}

struct State {
    sampler: Sampler,
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
    full_log_probs: Vec<f32>,
    /// The first token that was drawn from logits that are not finite.
    broken: Option<usize>,
    responses: mpsc::Receiver<Response>,
}

impl Capture {
    /// The capture, which answers through `reply`, and where mistral.rs is to send its response.
    pub fn new(bounds: Bounds, seed: u64, reply: Reply, place: Place) -> (Self, mpsc::Sender<Response>) {
        // One response is the rule; a sequence that runs on, or a batch that fails late, sends a second one, and
        // the model waits until there is room for it.
        let (response, responses) = mpsc::channel(4);
        let (sampler, tokens) = (Sampler::new(seed, &bounds.sampling), Vec::new());
        let state =
            State { sampler, tokens, log_probs: Vec::new(), full_log_probs: Vec::new(), broken: None, responses };
        let state = Mutex::new(state);
        (Self { bounds, state, reply: Some(reply), place }, response)
    }

    /// The token at this position; `context` is how long prompt and completion are so far.
    fn pick(&self, logits: &[f32], context: usize) -> u32 {
        let abandoned = self.reply.as_ref().is_none_or(oneshot::Sender::is_closed);
        if let (true, Some(&stop)) = (abandoned, self.bounds.sampling.stop_tokens.first()) {
            return stop;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.ended(&self.bounds).or_else(|| state.kept(&self.bounds, context)) {
            Some(token) => token,
            None => state.draw(logits),
        }
    }
}

impl CustomLogitsProcessor for Capture {
    /// `logits`: (V), f32, already on the CPU. Returns logits of which the last, that of the pick, is the largest.
    ///
    /// 0.8.1 calls this on rayon's global pool, for the sequences of a step at a time (on the model's thread if there is
    /// one sequence), and its arg-max wants no V numbers: it takes the index of the largest.
    fn apply(&self, logits: &Tensor, context: &[u32]) -> candle_core::Result<Tensor> {
        let vocabulary = logits.elem_count();
        if vocabulary == 0 {
            candle_core::bail!("the model gave no logits");
        }
        let pick = with_values(logits, |values| self.pick(values, context.len()))? as usize;
        self.place.drawn(context.len());
        if pick >= vocabulary {
            candle_core::bail!("stop token {pick} is not in the vocabulary");
        }
        rising(vocabulary)?.narrow(0, 0, pick + 1)
    }
}

/// What `f` makes of the numbers of a vector on the CPU: where they stand, if they stand together.
fn with_values<T>(logits: &Tensor, f: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = logits.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(f(&values[start..end]));
    }
    drop(storage);
    Ok(f(&logits.to_vec1::<f32>()?))
}

/// 0, 1, 2, … up to `vocabulary` at least: any beginning of it has its largest number at its end. Made once, and shared.
fn rising(vocabulary: usize) -> candle_core::Result<Tensor> {
    static RISING: Mutex<Option<Tensor>> = Mutex::new(None);
    let mut rising = RISING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*rising {
        Some(rising) if rising.elem_count() >= vocabulary => Ok(rising.clone()),
        _ => Ok(rising.insert(Tensor::arange(0.0, vocabulary as f32, &Device::Cpu)?).clone()),
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            // An error here only says that nobody waits.
            let _ = reply.send(state.answer(&self.bounds));
        }
    }
}

impl State {
    /// What to say when the sequence has ended already.
    fn ended(&self, bounds: &Bounds) -> Option<u32> {
        let stop = bounds.sampling.stop_tokens.first().copied();
        match bounds.sampling.finish(&self.tokens, bounds.max_new_tokens)? {
            Finish::Stop => stop,
            Finish::Length => self.tokens.last().copied(),
        }
    }

    /// The token that was drawn for this position: mistral.rs asks again for one that it did not keep, when another
    /// sequence of the batch has failed.
    fn kept(&self, bounds: &Bounds, context: usize) -> Option<u32> {
        self.tokens.get(context.checked_sub(bounds.prompt_tokens)?).copied()
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let drawn = self.sampler.sample(logits);
        self.tokens.push(drawn.token);
        self.log_probs.push(drawn.log_prob);
        self.full_log_probs.push(drawn.full_log_prob);
        if !drawn.is_finite() {
            self.broken.get_or_insert(self.tokens.len() - 1);
        }
        drawn.token
    }

    /// Joins what was drawn with what mistral.rs says about it.
    fn answer(&mut self, bounds: &Bounds) -> Result<Answer, EngineError> {
        let done = match self.responses.try_recv() {
            Ok(Response::CompletionDone(done)) => done,
            Ok(Response::CompletionModelError(problem, _)) => return Err(EngineError::Generate(first_line(&problem))),
            Ok(Response::InternalError(problem) | Response::ValidationError(problem)) => {
                return Err(EngineError::Generate(first_line(&problem.to_string())));
            }
            Ok(_) => return Err(EngineError::Generate("not a completion: this is a bug in the engine".into())),
            Err(_) => return Err(EngineError::Stopped),
        };
        let reason = done.choices.first().map_or("nothing", |choice| choice.finish_reason.as_str());
        let Some(finish) = bounds.sampling.finish(&self.tokens, bounds.max_new_tokens) else {
            return Err(EngineError::Generate(format!("mistral.rs ended the sequence with `{reason}`")));
        };
        let (drawn, kept) = (self.tokens.len(), done.usage.completion_tokens);
        let by_string = self.tokens.last().is_some_and(|last| !bounds.sampling.stop_tokens.contains(last));
        if kept != drawn && !(finish == Finish::Stop && by_string && kept == drawn + 1) {
            return Err(EngineError::Generate(format!("{drawn} tokens were drawn but mistral.rs kept {kept}")));
        }
        if let Some(at) = self.broken {
            return Err(EngineError::Generate(format!("the logits of token {at} are not finite")));
        }
        let (tokens, log_probs) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.log_probs));
        Ok(Answer { tokens, log_probs, full_log_probs: std::mem::take(&mut self.full_log_probs), finish })
    }
}

/// candle writes a backtrace behind its messages when the environment asks for one.
pub fn first_line(problem: &str) -> String {
    problem.lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::slots::{Slot, Slots};
    use super::*;
    use crate::seed::mix_seed;
    use mistralrs::core::{CompletionChoice, CompletionResponse, Usage};
    use std::sync::Arc;

    async fn capture(max_new_tokens: usize, slots: &Arc<Slots>) -> (Capture, mpsc::Sender<Response>, Caller) {
        let slot = slots.acquire().await.expect("a free slot");
        let bounds = Bounds { prompt_tokens: 2, max_new_tokens, sampling: Sampling::new(0.0, vec![2]) };
        captured(bounds, slot)
    }

    fn captured(bounds: Bounds, slot: Slot) -> (Capture, mpsc::Sender<Response>, Caller) {
        let (reply, caller) = oneshot::channel();
        let (capture, response) = Capture::new(bounds, 1, reply, Place::Slot(slot));
        (capture, response, caller)
    }

    fn slots() -> Arc<Slots> {
        Slots::new(1, 1)
    }

    fn picked(capture: &Capture, logits: &[f32], context: &[u32]) -> u32 {
        let logits = Tensor::new(logits, &Device::Cpu).expect("a tensor");
        let returned: Vec<f32> = capture.apply(&logits, context).and_then(|t| t.to_vec1()).expect("logits");
        let largest = returned.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a pick").0;
        assert_eq!(largest, returned.len() - 1);
        largest as u32
    }

    #[tokio::test]
    async fn a_token_asked_for_twice_is_drawn_once() {
        let (capture, _response, _caller) = capture(9, &slots()).await;
        assert_eq!(picked(&capture, &[0.0, 2.0, 1.0], &[5, 5]), 1);
        assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5]), 1, "asked again for the same position");
        assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, 1]), 0);
        assert_eq!(capture.state.lock().expect("unpoisoned").tokens, [1, 0]);
    }

    fn done(completion_tokens: usize) -> Response {
        let choice = CompletionChoice { finish_reason: "length".into(), index: 0, text: String::new(), logprobs: None };
        let usage = Usage {
            completion_tokens,
            prompt_tokens: 2,
            total_tokens: 2 + completion_tokens,
            avg_tok_per_sec: 0.0,
            avg_prompt_tok_per_sec: 0.0,
            avg_compl_tok_per_sec: 0.0,
            total_time_sec: 0.0,
            total_prompt_time_sec: 0.0,
            total_completion_time_sec: 0.0,
        };
        let (id, model, object) = (String::new(), String::new(), String::new());
        let (choices, system_fingerprint) = (vec![choice], String::new());
        Response::CompletionDone(CompletionResponse {
            id,
            choices,
            created: 0,
            model,
            system_fingerprint,
            object,
            usage,
        })
    }

    /// Top-k leaves out the logit that is no number, and a token is drawn; the answer is an error nevertheless.
    #[tokio::test]
    async fn logits_that_are_not_finite_are_an_error_whatever_is_cut_away() {
        for (logit, is_fine) in [(0.0, true), (f32::NAN, false)] {
            let slot = slots().acquire().await.expect("a free slot");
            let sampling = Sampling { top_k: 2, ..Sampling::new(1.0, vec![9]) };
            let bounds = Bounds { prompt_tokens: 2, max_new_tokens: 1, sampling };
            let (capture, response, caller) = captured(bounds, slot);
            picked(&capture, &[logit, 2.0, 1.0], &[5, 5]);
            response.send(done(1)).await.expect("the capture listens");
            drop(capture);
            let answer = caller.await.expect("an answer");
            assert_eq!(answer.is_ok(), is_fine, "{answer:?}");
            assert!(is_fine || answer.is_err_and(|error| error.to_string().contains("finite")));
        }
    }

    #[tokio::test]
    async fn nothing_is_drawn_behind_the_end() {
        for (max_new_tokens, first, token) in [(9, [0.0, 0.0, 1.0], 2), (1, [0.0, 1.0, 0.0], 1)] {
            let (capture, _response, _caller) = capture(max_new_tokens, &slots()).await;
            assert_eq!(picked(&capture, &first, &[5, 5]), token);
            assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, token]), token);
            assert_eq!(capture.state.lock().expect("unpoisoned").tokens, [token]);
        }
    }

    /// `cargo test --release -p engine --features mistralrs cost_of_a_token -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn cost_of_a_token() {
        const VOCABULARY: usize = 152_064;
        const TOKENS: usize = 300;
        let normal = |i: usize| (0..6).map(|j| mix_seed(i as u64, j) as f32 / u64::MAX as f32).sum::<f32>() * 4.0;
        let logits: Vec<f32> = (0..VOCABULARY).map(normal).collect();
        let slot = slots().acquire().await.expect("a free slot");
        let bounds = Bounds { prompt_tokens: 0, max_new_tokens: TOKENS + 1, sampling: Sampling::new(1.0, vec![]) };
        let (capture, _response, _caller) = captured(bounds, slot);
        let context = vec![0; TOKENS];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for at in 0..TOKENS {
            let logits = Tensor::new(logits.as_slice(), &Device::Cpu).expect("a tensor");
            let since = std::time::Instant::now();
            let returned = capture.apply(&logits, &context[..at]).expect("logits");
            ours.push(since.elapsed());
            // What mistral.rs does with it.
            let since = std::time::Instant::now();
            let values: Vec<f32> = returned.to_vec1().expect("values");
            let best =
                values.iter().enumerate().max_by(|a, b| a.1.partial_cmp(b.1).unwrap_or(std::cmp::Ordering::Equal));
            let best = best.map(|(id, _)| id as u32);
            theirs.push(since.elapsed());
            assert_eq!(best, capture.state.lock().expect("unpoisoned").tokens.last().copied());
        }
        for times in [&mut ours, &mut theirs] {
            times.sort();
        }
        println!(
            "a token of {VOCABULARY}: {:?} here, {:?} in mistral.rs behind it",
            ours[TOKENS / 2],
            theirs[TOKENS / 2]
        );
    }

    #[tokio::test]
    async fn an_abandoned_sequence_stops() {
        let (capture, _response, caller) = capture(9, &slots()).await;
        assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5]), 0);
        drop(caller);
        assert_eq!(picked(&capture, &[3.0, 2.0, 1.0], &[5, 5, 0]), 2);
    }

    #[tokio::test]
    async fn a_dropped_sequence_answers_and_frees_its_slot() {
        let slots = slots();
        let (capture, _response, caller) = capture(9, &slots).await;
        assert_eq!(slots.free(), 0);
        drop(capture);
        assert!(matches!(caller.await, Ok(Err(EngineError::Stopped))));
        assert_eq!(slots.free(), 1);
    }
}
