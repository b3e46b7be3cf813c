//! Which sequences start to run.

use super::group::{PromptState, SequenceGroup};
use super::sequence::{CompletionState, Sequence};
use super::state::{ContinuousBatcher, RunningSequence};
use crate::native::compute::Compute;
use crate::sampler::Sampler;
use crate::seed::mix_seed;

impl<C: Compute> ContinuousBatcher<C> {
    /// Ends groups whose caller has gone.
    pub(super) fn drop_abandoned(&mut self) {
        let gone: Vec<u64> = self.groups.iter().filter(|(_, g)| g.reply.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            let group = self.groups.remove(&id);
            if let Some(SequenceGroup { prompt: PromptState::Cached(prompt), .. }) = group {
                self.release(prompt.blocks);
            }
            self.waiting.retain(|waiting| *waiting != id);
            self.preempted.retain(|sequence| sequence.group != id);
            for sequence in self.running.extract_if(.., |sequence| sequence.group == id).collect::<Vec<_>>() {
                self.release(sequence.blocks);
            }
        }
    }

    /// Starts sequences while there is room: first preempted ones, then groups in the order of arrival.
    pub(super) fn admit(&mut self) {
        while self.running.len() < self.max_sequences
            && let Some(sequence) = self.preempted.pop_front()
        {
            if let Some(sequence) = self.start(sequence) {
                return self.preempted.push_front(sequence);
            }
        }
        let mut next = 0;
        while self.running.len() < self.max_sequences
            && let Some(&id) = self.waiting.get(next)
        {
            let Some(group) = self.groups.get_mut(&id) else { unreachable!("a waiting group exists") };
            let started = match &group.prompt {
                PromptState::Running | PromptState::Finished => {
                    next += 1;
                    continue;
                }
                PromptState::Waiting => {
                    group.prompt = PromptState::Running;
                    let prompt = Sequence::new(id, None, group.request.prompt.to_vec(), group.policy.clone());
                    self.start(prompt).map(|prompt| self.drop_prompt(prompt)).is_none()
                }
                // One block to write to, and one for the tokens after it.
                PromptState::Cached(_) => self.has_room(2).then(|| self.fork(id)).is_some(),
            };
            if !started {
                return;
            }
        }
    }

    /// Runs the sequence, with the blocks that the prefix cache has of it. Returns it if there is no room.
    fn start(&mut self, mut sequence: RunningSequence<C>) -> Option<RunningSequence<C>> {
        sequence.share(&mut self.prefixes, &mut self.pool);
        if self.has_room(sequence.missing_blocks() + 1) {
            self.running.push(sequence);
            return None;
        }
        self.release(std::mem::take(&mut sequence.blocks));
        sequence.computed = 0;
        Some(sequence)
    }

    /// Whether `blocks` are left after every running sequence has the blocks for its present tokens; evicts idle
    /// prefixes if necessary. A sequence that would run alone always has room.
    fn has_room(&mut self, blocks: usize) -> bool {
        let wanted = blocks + self.running.iter().map(Sequence::missing_blocks).sum::<usize>();
        self.prefixes.evict(&mut self.pool, wanted);
        self.running.is_empty() || self.pool.in_use() + wanted <= self.pool.capacity()
    }

    /// Starts the next completion of a group whose prompt is cached.
    fn fork(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let PromptState::Cached(prompt) = &group.prompt else { return };
        let (request, index) = (&group.request, group.started);
        let mut sampler = Sampler::new(mix_seed(request.seed, index as u64), &request.sampling);
        let drawn = sampler.sample(&prompt.logits);
        let policy = prompt.policy.clone();
        let (log_probs, full_log_probs) = (Vec::new(), Vec::new());
        let completion = CompletionState { index, sampler, log_probs, full_log_probs, first_policy: policy.clone() };
        let mut sequence = Sequence::new(id, Some(completion), request.prompt.to_vec(), group.policy.clone());
        (sequence.computed, sequence.blocks) = (sequence.tokens.len(), prompt.blocks.clone());
        group.started += 1;
        if group.started == request.group_size {
            let finished = std::mem::replace(&mut group.prompt, PromptState::Finished);
            self.waiting.retain(|waiting| *waiting != id);
            if let PromptState::Cached(prompt) = finished {
                self.release(prompt.blocks);
            }
        }
        self.accept(sequence, drawn, policy);
    }
}
