//! Handling a step's results: cached prompts, drawn tokens, finished completions, answers.

use tokio::sync::oneshot;

use super::group::{CachedPrompt, DrawnToken, PromptState};
use super::policy::id_of;
use super::state::{ContinuousBatcher, RunningSequence};
use crate::native::compute::Compute;
use crate::sampler::SampledToken;
use crate::{Completion, EngineError, PolicyVersion};

impl<C: Compute> ContinuousBatcher<C> {
    /// Puts the full blocks that a prompt has computed so far into the prefix cache.
    pub(super) fn share_prefix(&mut self, sequence: &RunningSequence<C>) {
        if sequence.completion.is_none() && sequence.is_current && sequence.scheduled > 0 {
            self.prefixes.insert(id_of(&sequence.policy), &sequence.tokens[..sequence.computed], &sequence.blocks);
        }
    }

    /// Keeps a computed prompt for the completions that fork from it.
    pub(super) fn finish_prompt(&mut self, sequence: RunningSequence<C>, logits: Vec<f32>) {
        let policy = self.live(&sequence.policy).version.clone();
        let Some(group) = self.groups.get_mut(&sequence.group) else { return self.release(sequence.blocks) };
        group.prompt = PromptState::Cached(CachedPrompt { policy, blocks: sequence.blocks, logits });
    }

    /// Appends a token that was drawn from logits of `policy`. A completion that ends goes into its group; the last one
    /// answers the request.
    pub(super) fn accept(&mut self, mut sequence: RunningSequence<C>, drawn: SampledToken, policy: PolicyVersion) {
        if !drawn.is_finite() {
            return self.fail(sequence);
        }
        let Some(group) = self.groups.get_mut(&sequence.group) else { return self.release(sequence.blocks) };
        let Some(state) = &mut sequence.completion else { unreachable!("a prompt draws no tokens") };
        sequence.tokens.push(drawn.token);
        state.log_probs.push(drawn.log_prob);
        state.full_log_probs.push(drawn.full_log_prob);
        if let Some(sink) = &group.tokens {
            let SampledToken { token, log_prob, full_log_prob } = drawn;
            // Fails only if the caller listens no longer, but still waits for the group.
            let _ = sink.send(DrawnToken { index: state.index, token, log_prob, full_log_prob });
        }
        let completion = &sequence.tokens[group.request.prompt.len()..];
        let Some(finish) = group.request.sampling.finish(completion, group.max_new_tokens) else {
            return self.running.push(sequence);
        };
        group.completions[state.index] = Some(Completion {
            tokens: sequence.tokens.split_off(group.request.prompt.len()),
            log_probs: std::mem::take(&mut state.log_probs),
            full_log_probs: std::mem::take(&mut state.full_log_probs),
            finish,
            policy: state.first_policy.clone(),
            last_policy: policy,
            endpoint: None,
        });
        let complete = group.completions.iter().all(Option::is_some);
        let id = sequence.group;
        self.release(sequence.blocks);
        if complete && let Some(group) = self.groups.remove(&id) {
            // Fails only if the caller has gone, which needs no answer.
            let _ = group.reply.send(Ok(group.completions.into_iter().flatten().collect()));
        }
    }

    /// Answers the sequence's group with an error; the group's other sequences end at the next step.
    fn fail(&mut self, sequence: RunningSequence<C>) {
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            let at = sequence.tokens.len() - group.request.prompt.len();
            let problem = EngineError::Generate(format!("the logits of token {at} are not finite"));
            let (gone, _) = oneshot::channel();
            // Fails only if the caller has gone, which needs no answer.
            let _ = std::mem::replace(&mut group.reply, gone).send(Err(problem));
        }
        self.release(sequence.blocks);
    }
}
