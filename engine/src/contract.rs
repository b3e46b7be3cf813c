//! What every answer to a request must be, whichever engine gave it. What fails here must not be graded or trained on.

use crate::{Completion, Request};

/// A log-probability may exceed 0 by rounding, but by no more than this.
const ROUNDING: f32 = 1e-3;

/// Checks the answer to `request` of an engine whose vocabulary has `vocab_size` tokens. `most`: the most tokens of a
/// completion ([`Request::room`]).
///
/// # Errors
/// What is wrong with it.
pub fn check(request: &Request, completions: &[Completion], most: usize, vocab_size: usize) -> Result<(), String> {
    if completions.len() != request.group_size {
        return Err(format!("{} completions for a group of {}", completions.len(), request.group_size));
    }
    for (index, completion) in completions.iter().enumerate() {
        check_completion(request, completion, most, vocab_size).map_err(|problem| match &completion.endpoint {
            Some(endpoint) => format!("completion {index} of {endpoint}: {problem}"),
            None => format!("completion {index}: {problem}"),
        })?;
    }
    Ok(())
}

fn check_completion(request: &Request, completion: &Completion, most: usize, vocab_size: usize) -> Result<(), String> {
    let Completion { tokens, log_probs, full_log_probs, policy, last_policy, .. } = completion;
    check_tokens(request, tokens, most, vocab_size)?;
    for log_probs in [log_probs, full_log_probs] {
        check_count(log_probs.len(), tokens.len())?;
        log_probs.iter().enumerate().try_for_each(|(at, value)| check_log_prob(at, *value))?;
    }
    if last_policy.step < policy.step {
        return Err(format!("it began under the policy of step {} and ended under {}", policy.step, last_policy.step));
    }
    Ok(())
}

/// # Errors
/// A number of tokens that was not asked for, a token that does not exist, or one after a stop token.
pub fn check_tokens(request: &Request, tokens: &[u32], most: usize, vocab_size: usize) -> Result<(), String> {
    if tokens.is_empty() || tokens.len() > most {
        return Err(format!("{} tokens, expected 1 to {most}", tokens.len()));
    }
    if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
        return Err(format!("token {token} is not in the vocabulary of {vocab_size}"));
    }
    let stop_tokens = &request.sampling.stop_tokens;
    match tokens[..tokens.len() - 1].iter().position(|token| stop_tokens.contains(token)) {
        Some(at) => Err(format!("it goes on after its stop token at position {at}")),
        None => Ok(()),
    }
}

/// # Errors
/// Another number of log-probabilities than of tokens.
pub fn check_count(log_probs: usize, tokens: usize) -> Result<(), String> {
    if log_probs == tokens { Ok(()) } else { Err(format!("{log_probs} log-probabilities for {tokens} tokens")) }
}

/// # Errors
/// A value at position `at` that is no log-probability.
pub fn check_log_prob(at: usize, value: f32) -> Result<(), String> {
    match value.is_finite() && value <= ROUNDING {
        true => Ok(()),
        false => Err(format!("the log-probability at position {at} is {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Finish, PolicyVersion, Sampling};

    fn good() -> Completion {
        let policy = PolicyVersion { step: 3, adapter: crate::adapter::hash_bytes(b"") };
        Completion {
            tokens: vec![1, 2, 9],
            log_probs: vec![-0.5, 0.0, -3.0],
            full_log_probs: vec![-0.6, -0.1, -3.0],
            finish: Finish::Stop,
            policy: policy.clone(),
            last_policy: policy,
            endpoint: None,
        }
    }

    fn problem(change: impl FnOnce(&mut Vec<Completion>)) -> Option<String> {
        let request = Request { prompt: [1].into(), group_size: 2, seed: 0, sampling: Sampling::new(1.0, vec![9]) };
        let mut completions = vec![good(), good()];
        change(&mut completions);
        check(&request, &completions, 4, 10).err()
    }

    #[test]
    fn what_breaks_the_contract_is_named() {
        let check = |change: fn(&mut Vec<Completion>), expected: &str| {
            let found = problem(change).unwrap_or_default();
            assert!(found.contains(expected), "{found:?} does not contain {expected:?}");
        };
        assert_eq!(problem(|_| {}), None);
        assert_eq!(problem(|all| all[1].log_probs[0] = 1e-4), None);
        assert_eq!(problem(|all| all[1].last_policy.step = 4), None);
        check(|all| drop(all.pop()), "1 completions for a group of 2");
        check(|all| all[1].tokens.clear(), "completion 1: 0 tokens, expected 1 to 4");
        check(|all| all[0].tokens = vec![1; 5], "completion 0: 5 tokens, expected 1 to 4");
        check(|all| all[1].tokens[2] = 10, "token 10 is not in the vocabulary of 10");
        check(|all| all[0].tokens[1] = 9, "goes on after its stop token at position 1");
        check(|all| all[1].tokens.truncate(2), "3 log-probabilities for 2 tokens");
        check(|all| all[0].full_log_probs.truncate(2), "2 log-probabilities for 3 tokens");
        check(|all| all[0].log_probs[1] = f32::NAN, "the log-probability at position 1 is NaN");
        check(|all| all[0].full_log_probs[2] = f32::NEG_INFINITY, "position 2 is -inf");
        check(|all| all[0].log_probs[0] = 0.1, "position 0 is 0.1");
        check(|all| all[1].last_policy.step = 2, "began under the policy of step 3 and ended under 2");
        check(
            |all| {
                all[1].endpoint = Some("http://10.0.0.9".into());
                all[1].tokens.clear();
            },
            "completion 1 of http://10.0.0.9: 0 tokens",
        );
    }
}
