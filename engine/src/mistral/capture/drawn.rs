//! The tokens of one sequence, and what they become when mistral.rs has ended it.

use mistralrs::core::Response;
use tokio::sync::mpsc;

use crate::mistral::messages::first_line;
use crate::sampler::Sampler;
use crate::{EngineError, Finish, Sampling};

/// What one sequence produced.
#[derive(Debug)]
pub struct Captured {
    pub tokens: Vec<u32>,
    /// As long as `tokens`.
    pub log_probs: Vec<f32>,
    /// As long as `tokens`.
    pub full_log_probs: Vec<f32>,
    pub finish: Finish,
}

/// Where a sequence begins and ends.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub prompt_tokens: usize,
    /// At least one.
    pub max_new_tokens: usize,
    pub sampling: Sampling,
}

/// The draws so far.
pub struct DrawnTokens {
    sampler: Sampler,
    pub tokens: Vec<u32>,
    log_probs: Vec<f32>,
    full_log_probs: Vec<f32>,
    /// The first token that was drawn from logits that are not finite.
    broken: Option<usize>,
    responses: mpsc::Receiver<Response>,
}

impl DrawnTokens {
    /// Before the first draw; `responses` is where mistral.rs reports the end.
    pub fn new(sampler: Sampler, responses: mpsc::Receiver<Response>) -> Self {
        let (tokens, log_probs, full_log_probs) = (Vec::new(), Vec::new(), Vec::new());
        Self { sampler, tokens, log_probs, full_log_probs, broken: None, responses }
    }

    /// The token to return if the sequence has already ended.
    pub fn ended(&self, bounds: &Bounds) -> Option<u32> {
        let stop = bounds.sampling.stop_tokens.first().copied();
        match bounds.sampling.finish(&self.tokens, bounds.max_new_tokens)? {
            Finish::Stop => stop,
            Finish::Length => self.tokens.last().copied(),
        }
    }

    /// The token that was already drawn for this position. mistral.rs asks twice if another sequence of the batch
    /// failed, because it then discards the token.
    pub fn kept(&self, bounds: &Bounds, context: usize) -> Option<u32> {
        self.tokens.get(context.checked_sub(bounds.prompt_tokens)?).copied()
    }

    /// Draws the next token and keeps it.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let drawn = self.sampler.sample(logits);
        self.tokens.push(drawn.token);
        self.log_probs.push(drawn.log_prob);
        self.full_log_probs.push(drawn.full_log_prob);
        if !drawn.is_finite() {
            self.broken.get_or_insert(self.tokens.len() - 1);
        }
        drawn.token
    }

    /// The sequence's result: what was drawn, checked against mistral.rs's response.
    pub fn answer(&mut self, bounds: &Bounds) -> Result<Captured, EngineError> {
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
        Ok(Captured { tokens, log_probs, full_log_probs: std::mem::take(&mut self.full_log_probs), finish })
    }
}
