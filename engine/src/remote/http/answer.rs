//! What every group of completions must satisfy, whichever server gave it: nothing that fails here reaches training.

use crate::remote::Answer;
use crate::{Finish, Request, contract};

/// One completion before it was checked.
#[derive(Debug)]
pub struct Choice {
    pub index: usize,
    pub tokens: Vec<u32>,
    pub log_probs: Vec<Option<f32>>,
    /// `None`: the server does not truncate, so they are `log_probs`.
    pub full_log_probs: Option<Vec<Option<f32>>>,
    /// The prompt, if the server repeats it.
    pub prompt: Option<Vec<u32>>,
    /// Why the server says it ended.
    pub reason: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub request: &'a Request,
    pub most_tokens: usize,
    pub vocab_size: usize,
}

impl Asked<'_> {
    /// More bytes than an honest answer has.
    pub fn most_bytes(&self) -> usize {
        const REST: usize = 64 << 10;
        const PER_TOKEN: usize = 256;
        const PER_PROMPT_TOKEN: usize = 16;
        let completion = self.most_tokens.saturating_mul(PER_TOKEN);
        let prompt = self.request.prompt.len().saturating_mul(PER_PROMPT_TOKEN);
        completion.saturating_add(prompt).saturating_mul(self.request.group_size).saturating_add(REST)
    }

    /// The group in its order.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub fn check(&self, mut choices: Vec<Choice>) -> Result<Vec<Answer>, String> {
        let expected = self.request.group_size;
        choices.sort_by_key(|choice| choice.index);
        if !choices.iter().map(|choice| choice.index).eq(0..expected) {
            let found: Vec<usize> = choices.iter().map(|choice| choice.index).take(8).collect();
            return Err(format!("asked for {expected} completions, got {} with the indices {found:?}", choices.len()));
        }
        let check = |choice: Choice| {
            let index = choice.index;
            self.check_one(choice).map_err(|problem| format!("completion {index}: {problem}"))
        };
        choices.into_iter().map(check).collect()
    }

    fn check_one(&self, choice: Choice) -> Result<Answer, String> {
        if choice.prompt.as_deref().is_some_and(|prompt| prompt != &*self.request.prompt) {
            return Err("it answers another prompt than the one sent".into());
        }
        contract::check_tokens(self.request, &choice.tokens, self.most_tokens, self.vocab_size)?;
        let finish = self.finish(&choice)?;
        let log_probs = log_probs(&choice.log_probs, choice.tokens.len())?;
        let full_log_probs = match &choice.full_log_probs {
            Some(full) => self::log_probs(full, choice.tokens.len())?,
            None => log_probs.clone(),
        };
        Ok(Answer { tokens: choice.tokens, log_probs, full_log_probs, finish })
    }

    /// The end that the tokens themselves show. The server must agree, except that it may call the last possible token
    /// the end by length although it is a stop token.
    fn finish(&self, choice: &Choice) -> Result<Finish, String> {
        let (tokens, reason) = (&choice.tokens, choice.reason.as_deref().unwrap_or("none"));
        let ended = format!("after {} of {} tokens with the reason {reason}", tokens.len(), self.most_tokens);
        match (self.request.sampling.finish(tokens, self.most_tokens), reason) {
            (Some(Finish::Stop), "stop") => Ok(Finish::Stop),
            (Some(Finish::Stop), "length") if tokens.len() == self.most_tokens => Ok(Finish::Stop),
            (Some(Finish::Length), "length") => Ok(Finish::Length),
            (Some(Finish::Stop), _) => Err(format!("it ended {ended}, but its last token is a stop")),
            (Some(Finish::Length), _) => Err(format!("it ended {ended}, but nothing stops it there but its length")),
            (None, _) => Err(format!("it ended {ended}, without a stop of the request")),
        }
    }
}

fn log_probs(found: &[Option<f32>], tokens: usize) -> Result<Vec<f32>, String> {
    contract::check_count(found.len(), tokens)?;
    let check = |(at, value): (usize, &Option<f32>)| {
        let value = value.ok_or_else(|| format!("the log-probability at position {at} is null"))?;
        contract::check_log_prob(at, value).map(|()| value.min(0.0))
    };
    found.iter().enumerate().map(check).collect()
}
