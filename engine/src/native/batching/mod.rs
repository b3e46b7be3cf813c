//! Continuous batching over the paged cache: which sequences run in the next step, and what happens to them afterwards.
//!
//! A request is a group. Its prompt is computed once, as a separate sequence. Each completion forks from it and shares
//! its blocks. In every step each running sequence computes a chunk of the tokens that it has not computed: one token
//! if it decodes, more if it is a prompt. A completion whose tokens are all computed draws the next one. What a prompt
//! has computed is shared at once: a prompt with the same beginning waits for it.
//!
//! Invariants: every group is answered once, or its caller has gone. `running` is in the order of admission, and the
//! oldest sequence always gets its blocks (the youngest are preempted: they keep their tokens and are computed again
//! later), so every sequence finishes.
//!
//! - `state.rs` the batcher's state · `group.rs` a request · `sequence.rs` a prompt or completion that is computed
//! - `policy.rs` the weights that sequences are computed with
//! - `admission.rs` what starts to run · `plan.rs` how much each sequence computes, preemption · `finish.rs` handling a
//!   step's results

mod admission;
mod finish;
mod group;
mod plan;
mod policy;
mod sequence;
mod state;

use std::sync::Arc;

use super::cache::{BLOCK_TOKENS, blocks_of_request};
use super::compute::Compute;
use crate::sampler::SampledToken;
use crate::{EngineError, PolicyVersion};
pub use group::{DrawnToken, Submission, TokenSink};
use group::{PromptState, SequenceGroup};
pub use policy::LivePolicy;
use policy::{OwnPolicy, id_of};
pub use state::ContinuousBatcher;

impl<C: Compute> ContinuousBatcher<C> {
    /// Adds a request.
    pub fn submit(&mut self, submission: Submission) {
        let Submission { request, room: max_new_tokens, policy, tokens: sink, reply } = submission;
        let tokens = request.prompt.len() + max_new_tokens;
        if !self.pool.grow(blocks_of_request(tokens)) {
            let has = self.pool.capacity() * BLOCK_TOKENS;
            let problem = format!("a request of up to {tokens} tokens does not fit the cache of {has}");
            // Fails only if the caller has gone, which needs no answer.
            let _ = reply.send(Err(EngineError::Generate(problem)));
            return;
        }
        let id = self.arrivals;
        self.arrivals += 1;
        let group = SequenceGroup {
            max_new_tokens,
            completions: vec![None; request.group_size],
            request,
            policy,
            tokens: sink,
            reply,
            prompt: PromptState::Waiting,
            started: 0,
        };
        self.groups.insert(id, group);
        self.waiting.push_back(id);
    }

    /// Every request that names no policy continues under the new one. That includes prompts: if they started again,
    /// they would never finish when publishes follow each other closely. The prefix cache is cleared.
    pub fn publish(&mut self, policy: LivePolicy) -> PolicyVersion {
        self.prefixes.clear(&mut self.pool);
        let follow = self.running.iter_mut().filter(|sequence| sequence.policy.is_none());
        follow.for_each(|sequence| sequence.is_current = false);
        self.policy = Arc::new(policy);
        self.policy.version.clone()
    }

    /// Finishes all requests, then frees the cache's memory. Nothing may be submitted before
    /// [`ContinuousBatcher::resume`].
    pub fn suspend(&mut self) {
        while !self.is_idle() {
            self.step();
        }
        self.prefixes.clear(&mut self.pool);
        self.model.suspend();
    }

    /// Allocates the cache again.
    ///
    /// # Errors
    /// If there is no longer room for it.
    pub fn resume(&mut self) -> candle_core::Result<()> {
        self.model.resume()
    }

    pub fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// One forward pass for each policy over everything that can run. If one fails, every request is answered with the
    /// error.
    pub fn step(&mut self) {
        self.prepare();
        if let Err(error) = self.compute() {
            self.fail_all(&error);
        }
    }

    /// Decides what the next pass computes.
    fn prepare(&mut self) {
        self.drop_abandoned();
        self.admit();
        self.plan();
    }

    /// Runs the passes and takes in their results.
    fn compute(&mut self) -> candle_core::Result<()> {
        let mut drawn = vec![SampledToken::default(); self.running.len()];
        let mut logits = vec![Vec::new(); self.running.len()];
        for policy in self.scheduled_policies() {
            let live = self.live(&policy);
            let outputs = drawn.iter_mut().zip(&mut logits);
            let scheduled = self.running.iter_mut().zip(outputs).filter(|(sequence, _)| sequence.scheduled > 0);
            let chunks = scheduled.filter(|(sequence, _)| id_of(&sequence.policy) == id_of(&policy));
            let chunks = chunks.map(|(sequence, (drawn, logits))| sequence.chunk(drawn, logits)).collect();
            self.model.forward(chunks, &live.adapter)?;
        }
        let sequences = std::mem::take(&mut self.running);
        for ((mut sequence, drawn), logits) in sequences.into_iter().zip(drawn).zip(logits) {
            sequence.computed += sequence.scheduled;
            self.share_prefix(&sequence);
            let complete = sequence.scheduled > 0 && sequence.computed == sequence.tokens.len();
            match (complete, sequence.completion.is_some()) {
                (false, _) => self.running.push(sequence),
                (true, false) => self.finish_prompt(sequence, logits),
                (true, true) => {
                    let version = self.live(&sequence.policy).version.clone();
                    self.accept(sequence, drawn, version);
                }
            }
        }
        Ok(())
    }

    /// The policies of the sequences that the coming step computes, each once.
    fn scheduled_policies(&self) -> Vec<OwnPolicy> {
        let mut policies: Vec<OwnPolicy> = Vec::new();
        for sequence in self.running.iter().filter(|sequence| sequence.scheduled > 0) {
            if !policies.iter().any(|policy| id_of(policy) == id_of(&sequence.policy)) {
                policies.push(sequence.policy.clone());
            }
        }
        policies
    }

    /// Answers every request with the error and clears the cache, which may be partly written.
    fn fail_all(&mut self, error: &candle_core::Error) {
        for (_, group) in std::mem::take(&mut self.groups) {
            // Fails only if the caller has gone, which needs no answer.
            let _ = group.reply.send(Err(EngineError::Generate(error.to_string())));
            if let PromptState::Cached(prompt) = group.prompt {
                self.release(prompt.blocks);
            }
        }
        self.waiting.clear();
        let sequences = std::mem::take(&mut self.running).into_iter().chain(std::mem::take(&mut self.preempted));
        sequences.collect::<Vec<_>>().into_iter().for_each(|sequence| self.release(sequence.blocks));
        self.prefixes.clear(&mut self.pool);
    }
}

#[cfg(test)]
mod tests;
